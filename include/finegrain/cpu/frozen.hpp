// Frozen stages: the weights of each as the cpu executor reads them when they no longer change.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "../plan/frozen.hpp"
#include "frozen_experts.hpp"
#include "latent_attention.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// The weight (Out, In) of a product.
template <format F>
struct frozen_product {
  simd::panels<F> weight;

  constexpr frozen_product(arena& memory, std::int64_t in, std::int64_t out)
      : weight(memory, 1, out, in) {}
  void fill(cpu const& on, float const* numbers) const {
    simd::fill_panels(on, weight, {numbers, 1, weight.rows, weight.cols});
  }
};

inline void copy_numbers(matrix<float const> from, matrix<float> to) {
  std::copy_n(from.data, to.size(), to.data);
}

/// Numbers that stand at `from`, if there are any: plan/frozen.hpp.
template <class W>
void copy_from(W const& from, matrix<float> to) {
  if (to.size() > 0) std::copy_n(finegrain::detail::numbers(from, to.size()), to.size(), to.data);
}

/// The weights of E, a form of routed_experts<C>, but those of a router of one's own.
template <format F, config C, class E>
struct frozen_routed : frozen_experts<F> {
  matrix<float> router, bias, table, project, temperature, noise;  // in f32, whatever the experts
  constexpr explicit frozen_routed(arena& memory)
      : frozen_experts<F>(memory, C.routed, C.hidden, C.width) {
    constexpr auto w = bind_weights<E, float const>(nullptr);
    router = memory.matrix<float>(w.router.rows, w.router.cols);
    bias = memory.matrix<float>(w.bias.rows, w.bias.cols);
    table = memory.matrix<float>(w.table.rows, w.table.cols);
    project = memory.matrix<float>(w.project.rows, w.project.cols);
    temperature = memory.matrix<float>(w.temperature.rows, w.temperature.cols);
    noise = memory.matrix<float>(0, C.hidden);  // of training alone
  }
  /// The router's stand first, then the experts', then `behind`.
  template <class W>
  void fill(cpu const& on, W const& numbers, std::int64_t behind = 0) const {
    std::int64_t const first = weights_size<E>() - behind - frozen_experts<F>::size();
    auto const w = bind_weights<E, float const>(
        first > 0 ? finegrain::detail::numbers(numbers, first) : nullptr);
    copy_numbers(w.router, router), copy_numbers(w.bias, bias), copy_numbers(w.table, table);
    copy_numbers(w.project, project), copy_numbers(w.temperature, temperature);
    frozen_experts<F>::fill(on, numbers + first);
  }
};

}  // namespace FINEGRAIN_ISA

/// Of the instruction set, what changes panels: not which instructions read them.
template <>
struct packed_form<cpu> {
  static std::string executor() { return "cpu"; }

  template <format F>
  static std::string text() {
    using namespace simd;
    constexpr std::int64_t multiple = k_multiple<panels<F>::products>();
    std::string words = name_of(F);  // not by +: g++ 12 then warns of bounds that are kept
    words.append(", panels of ").append(std::to_string(vectors));
    words.append(" x ").append(std::to_string(lanes)).append(" rows");
    if (multiple > 1) words += ", k by " + std::to_string(multiple);
    if constexpr (Quantised<F>)
      words.append(", 0 is code ").append(std::to_string(codec<F>::codes(vec{})[0]));
    else if constexpr (F == format::bf16)
      words += unit<F>::flushes ? ", subnormals are 0" : "";
    if (F == format::int4) words += ", scales are up to 15 times a power of 2 by fours";
    return words;
  }
  template <format F>
  static void prepare() {
    if constexpr (simd::in_matrices<simd::panels<F>::products>) require_matrix_registers();
  }
};

template <formats F, int In, int Out>
requires(Packable<F.rest>) struct frozen_weights<cpu, F, linear<In, Out>> : frozen_product<F.rest> {
  constexpr explicit frozen_weights(arena& memory) : frozen_product<F.rest>(memory, In, Out) {}
};
template <formats F, int D, int V>
requires(Packable<F.rest>) struct frozen_weights<cpu, F, head<D, V>> : frozen_product<F.rest> {
  constexpr explicit frozen_weights(arena& memory) : frozen_product<F.rest>(memory, D, V) {}
};

template <formats F, int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
requires(
    Packable<F.rest>) struct frozen_weights<cpu, F, attention<D, Heads, KvHeads, HeadDim, Form>> {
  using E = attention<D, Heads, KvHeads, HeadDim, Form>;
  simd::panels<F.rest> query, key, value, output;
  matrix<float> query_bias, key_bias, value_bias, query_norm, key_norm;
  constexpr explicit frozen_weights(arena& memory)
      : query(memory, 1, Heads * HeadDim, D),
        key(memory, 1, KvHeads * HeadDim, D),
        value(memory, 1, KvHeads * HeadDim, D),
        output(memory, 1, D, Heads * HeadDim),
        query_bias(memory.matrix<float>(E::biases, Heads * HeadDim)),
        key_bias(memory.matrix<float>(E::biases, KvHeads * HeadDim)),
        value_bias(memory.matrix<float>(E::biases, KvHeads * HeadDim)),
        query_norm(memory.matrix<float>(E::normed, E::norm_width(Heads))),
        key_norm(memory.matrix<float>(E::normed, E::norm_width(KvHeads))) {}
  void fill(cpu const& on, float const* numbers) const {
    auto const w = bind_weights<E, float const>(numbers);
    copy_numbers(w.query_bias, query_bias);
    copy_numbers(w.key_bias, key_bias);
    copy_numbers(w.value_bias, value_bias);
    copy_numbers(w.query_norm, query_norm);
    copy_numbers(w.key_norm, key_norm);
    simd::fill_panels(on, query, simd::stacked(w.query));
    simd::fill_panels(on, key, simd::stacked(w.key));
    simd::fill_panels(on, value, simd::stacked(w.value));
    simd::fill_panels(on, output, simd::stacked(w.output));
  }
};

template <formats F, int D, int Heads, latent N>
requires(Packable<F.rest>) struct frozen_weights<cpu, F, latent_attention<D, Heads, N>> {
  using E = latent_attention<D, Heads, N>;
  simd::panels<F.rest> q_proj, q_a, q_b, kv_a, output;
  simd::latent_panels<F.rest> kv_b;
  matrix<float> q_a_norm, kv_a_norm;
  constexpr explicit frozen_weights(arena& memory)
      : q_proj(memory, 1, E::straight ? Heads * E::query_dim : 0, D),
        q_a(memory, 1, N.q_rank, D),
        q_b(memory, 1, E::straight ? 0 : Heads * E::query_dim, N.q_rank),
        kv_a(memory, 1, N.kv_rank + N.rope, D),
        output(memory, 1, D, Heads * N.value),
        kv_b(memory, Heads, N),
        q_a_norm(memory.matrix<float>(E::straight ? 0 : 1, N.q_rank)),
        kv_a_norm(memory.matrix<float>(1, N.kv_rank)) {}
  void fill(cpu const& on, float const* numbers) const {
    auto const w = bind_weights<E, float const>(numbers);
    if constexpr (E::straight) {
      simd::fill_panels(on, q_proj, simd::stacked(w.q_proj));
    } else {
      simd::fill_panels(on, q_a, simd::stacked(w.q_a));
      simd::fill_panels(on, q_b, simd::stacked(w.q_b));
      copy_numbers(w.q_a_norm, q_a_norm);
    }
    simd::fill_panels(on, kv_a, simd::stacked(w.kv_a));
    simd::fill_panels(on, output, simd::stacked(w.output));
    kv_b.fill(on, w.kv_b);
    copy_numbers(w.kv_a_norm, kv_a_norm);
  }
};

/// Rows in bf16, unless all is f32: a token reads one, so that smaller codes would save no time.
template <formats F, int V, int D>
requires(Packable<F.rest>&& F.rest != format::f32) struct frozen_weights<cpu, F, embedding<V, D>> {
  matrix<bf16> table;  // (V, D)
  constexpr explicit frozen_weights(arena& memory) : table(memory.matrix<bf16>(V, D)) {}
  void fill(cpu const& on, float const* numbers) const {
    on.threads(V, [&](std::int64_t row, int) {
      std::transform(numbers + row * D, numbers + (row + 1) * D, table.row(row),
                     [](float x) { return bf16(x); });
    });
  }
};

template <formats F, int D, int Width, glu Act>
requires(Packable<F.experts>) struct frozen_weights<cpu, F, mlp<D, Width, Act>>
    : frozen_experts<F.experts> {
  constexpr explicit frozen_weights(arena& memory)
      : frozen_experts<F.experts>(memory, 1, D, Width) {}
};
template <formats F, config C>
requires(Packable<F.experts>) struct frozen_weights<cpu, F, shared_experts<C>>
    : frozen_experts<F.experts> {
  matrix<float> shared_gate;  // (1, D), or empty
  constexpr explicit frozen_weights(arena& memory)
      : frozen_experts<F.experts>(memory, 1, C.hidden, C.shared * C.width),
        shared_gate(memory.matrix<float>(C.shared_gate ? 1 : 0, C.hidden)) {}
  template <class W>
  void fill(cpu const& on, W const& numbers) const {
    frozen_experts<F.experts>::fill(on, numbers);
    copy_from(numbers + frozen_experts<F.experts>::size(), shared_gate);
  }
};
template <formats F, config C>
requires(Packable<F.experts>) struct frozen_weights<cpu, F, routed_experts<C>>
    : frozen_routed<F.experts, C, routed_experts<C>> {
  using frozen_routed<F.experts, C, routed_experts<C>>::frozen_routed;
};
template <formats F, config C, Expr Router>
requires(Packable<F.experts>) struct frozen_weights<cpu, F, routed_experts<C, Router>>
    : frozen_routed<F.experts, C, routed_experts<C, Router>> {
  using E = routed_experts<C, Router>;
  static constexpr std::int64_t own_size = weights_size<Router>();
  matrix<float> own_numbers;         // in f32, as every router's
  weights<Router, float const> own;  // views of them
  constexpr explicit frozen_weights(arena& memory)
      : frozen_routed<F.experts, C, E>(memory),
        own_numbers(memory.matrix<float>(1, own_size)),
        own(bind_weights<Router, float const>(own_numbers.data)) {}
  template <class W>
  void fill(cpu const& on, W const& numbers) const {
    frozen_routed<F.experts, C, E>::fill(on, numbers, own_size);
    copy_from(numbers + (weights_size<E>() - own_size), own_numbers);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
