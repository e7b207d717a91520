// Frozen stages on the device: weights as codes, in memory of their own; routers stay as they are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../expr/latent_attention.hpp"
#include "../plan/frozen.hpp"
#include "coded.hpp"
#include "coded_linear.hpp"
#include "place.hpp"
#include "experts.hpp"
#include "fp8.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The weights of a group of experts in format F.
template <format F>
struct frozen_experts {
  static constexpr format number = F;
  coded_family codes;
  int count = 0, hidden = 0, width = 0;

  constexpr frozen_experts(arena& memory, int count, int hidden, int width)
      : codes(memory, F, count, hidden, width), count(count), hidden(hidden), width(width) {}
  template <class T, class W>
  void fill(basic_cuda<T> const& on, W const& w) const {
    coded_experts<T, F>::pack(w.gate.data, w.up.data, w.down.data, count, hidden, width, codes,
                              on.stream);
  }
};
template <class W>
concept Frozen = std::is_base_of_v<frozen_experts<W::number>, W>;

/// In the place of `experts` for a pass through a frozen layer.
template <class T, format F>
struct frozen_layer {
  static constexpr bool has_fp8 = F == format::fp8 && std::is_same_v<T, bf16>;

  format activations = format::bf16;
  coded_family routed{}, shared{};

  void up_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) const {
    if constexpr (has_fp8)
      if (takes_fp8(p, use)) {
        auto const [r, s] = rows_of(p);
        fp8_products<T>::quantize(p, r, s, stream);
        return fp8_products<T>::up_forward(p, r, s, stream);
      }
    coded_experts<T, F>::up_forward(p, routed, shared, stream);
  }
  void down_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) const {
    if constexpr (has_fp8)
      if (takes_fp8(p, use)) {
        auto const [r, s] = rows_of(p);
        return fp8_products<T>::down_forward(p, r, s, stream);
      }
    coded_experts<T, F>::down_forward(p, routed, shared, stream);
  }
  void down_combine(expert_products<T> const& p, T const* add, T* y, CUstream_st* stream) const {
    coded_experts<T, F>::down_combine(p, routed, shared, add, y, stream);
  }

 private:
  bool takes_fp8(expert_products<T> const& p, instructions use) const {
    bool const few = p.routed.width == 0 && p.rows.tokens <= most_streamed;
    return activations == format::fp8 && use == instructions::all && p.rows.tile == 128 && !few &&
           fp8_fits(p) && fp8_products<T>::available();
  }
  std::pair<fp8_family, fp8_family> rows_of(expert_products<T> const& p) const {
    fp8_family r, s;
    if (p.routed.width > 0) r = fp8_rows_of(routed, p.routed, p.rows.max_rows(), p.hidden);
    if (p.shared.width > 0) s = fp8_rows_of(shared, p.shared, p.rows.tokens, p.hidden);
    return {r, s};
  }
};

/// The weights of routed experts, of expression E: codes, and all else as it is.
template <class T, format F, config C, Expr E>
struct frozen_routed : frozen_experts<F> {
  matrix<T> router, bias, table, project, temperature, noise;
  constexpr explicit frozen_routed(arena& memory)
      : frozen_experts<F>(memory, C.routed, C.hidden, C.width) {
    constexpr auto w = bind_weights<E, T const>(nullptr);
    router = memory.matrix<T>(w.router.rows, w.router.cols);
    bias = {memory.take<T>(room_of(w.bias)), w.bias.rows, w.bias.cols};
    table = {memory.take<T>(room_of(w.table)), w.table.rows, w.table.cols};
    project = memory.matrix<T>(w.project.rows, w.project.cols);
    temperature = memory.matrix<T>(w.temperature.rows, w.temperature.cols);
    noise = memory.matrix<T>(0, C.hidden);  // of training alone
  }
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    auto const w = bind_weights<E, T const>(numbers);
    frozen_experts<F>::fill(on, w);
    auto const copy = [&on](auto from, matrix<T> to, std::int64_t count) {
      place<basic_cuda<T>>::copy(on, from.data, count, to.data);
    };
    copy(w.router, router, router.size());
    copy(w.bias, bias, room_of(w.bias)), copy(w.table, table, room_of(w.table));
    copy(w.project, project, project.size());
    copy(w.temperature, temperature, temperature.size());
  }

 private:
  /// Numbers of a selection bias or a table, with what rounding left of them (`summed`).
  static constexpr std::int64_t room_of(matrix<T const> m) {
    return m.size() > 0 ? finegrain::detail::room(m.size(), role::selection_bias) : 0;
  }
};

/// The weight (Out, In) of a product in format F.
template <class T, format F, int In, int Out>
struct frozen_product {
  static_assert(In % 8 == 0, "on cuda, rows of a weight in codes have a multiple of 8 numbers");
  coded_weight<F> weight;

  constexpr explicit frozen_product(arena& memory) : weight(memory, Out, In) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    coded_linear<T, F>::pack(numbers, weight, on.stream);
  }
};

}  // namespace device

template <class T, formats F, int In, int Out>
requires(device::is_coded(F.rest)) struct frozen_weights<basic_cuda<T>, F, linear<In, Out>>
    : device::frozen_product<T, F.rest, In, Out> {
  using device::frozen_product<T, F.rest, In, Out>::frozen_product;
};
template <class T, formats F, int D, int V>
requires(device::is_coded(F.rest)) struct frozen_weights<basic_cuda<T>, F, head<D, V>>
    : device::frozen_product<T, F.rest, D, V> {
  using device::frozen_product<T, F.rest, D, V>::frozen_product;
};

template <class T, formats F, int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
requires(device::is_coded(
    F.rest)) struct frozen_weights<basic_cuda<T>, F, attention<D, Heads, KvHeads, HeadDim, Form>> {
  using E = attention<D, Heads, KvHeads, HeadDim, Form>;
  device::coded_weight<F.rest> query, key, value, output;
  matrix<T> query_bias, key_bias, value_bias, query_norm, key_norm;
  constexpr explicit frozen_weights(arena& memory)
      : query(memory, Heads * HeadDim, D),
        key(memory, KvHeads * HeadDim, D),
        value(memory, KvHeads * HeadDim, D),
        output(memory, D, Heads * HeadDim),
        query_bias(memory.matrix<T>(E::biases, Heads * HeadDim)),
        key_bias(memory.matrix<T>(E::biases, KvHeads * HeadDim)),
        value_bias(memory.matrix<T>(E::biases, KvHeads * HeadDim)),
        query_norm(memory.matrix<T>(E::normed, E::norm_width(Heads))),
        key_norm(memory.matrix<T>(E::normed, E::norm_width(KvHeads))) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    auto const w = bind_weights<E, T const>(numbers);
    auto const copy = [&](matrix<T const> from, matrix<T> to) {
      place<basic_cuda<T>>::copy(on, from.data, to.size(), to.data);
    };
    copy(w.query_bias, query_bias), copy(w.key_bias, key_bias), copy(w.value_bias, value_bias);
    copy(w.query_norm, query_norm), copy(w.key_norm, key_norm);
    auto const pack = [&](matrix<T const> from, device::coded_weight<F.rest> const& to) {
      device::coded_linear<T, F.rest>::pack(from.data, to, on.stream);
    };
    pack(w.query, query), pack(w.key, key), pack(w.value, value), pack(w.output, output);
  }
};

/// kv_b stays in numbers: queries meet the one half of it turned over.
template <class T, formats F, int D, int Heads, latent N>
requires(device::is_coded(
    F.rest)) struct frozen_weights<basic_cuda<T>, F, latent_attention<D, Heads, N>> {
  using E = latent_attention<D, Heads, N>;
  static_assert(D % 8 == 0, "on cuda, rows of a weight in codes have a multiple of 8 numbers");
  device::coded_weight<F.rest> q_proj, q_a, q_b, kv_a, output;
  matrix<T> kv_b, q_a_norm, kv_a_norm;
  constexpr explicit frozen_weights(arena& memory)
      : q_proj(memory, E::straight ? Heads * E::query_dim : 0, D),
        q_a(memory, N.q_rank, D),
        q_b(memory, E::straight ? 0 : Heads * E::query_dim, N.q_rank),
        kv_a(memory, N.kv_rank + N.rope, D),
        output(memory, D, Heads * N.value),
        kv_b(memory.matrix<T>(Heads * (N.nope + N.value), N.kv_rank)),
        q_a_norm(memory.matrix<T>(E::straight ? 0 : 1, N.q_rank)),
        kv_a_norm(memory.matrix<T>(1, N.kv_rank)) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    auto const w = bind_weights<E, T const>(numbers);
    auto const pack = [&](matrix<T const> from, device::coded_weight<F.rest> const& to) {
      device::coded_linear<T, F.rest>::pack(from.data, to, on.stream);
    };
    auto const copy = [&](matrix<T const> from, matrix<T> to) {
      place<basic_cuda<T>>::copy(on, from.data, to.size(), to.data);
    };
    pack(w.q_proj, q_proj), pack(w.q_a, q_a), pack(w.q_b, q_b);
    pack(w.kv_a, kv_a), pack(w.output, output);
    copy(w.kv_b, kv_b), copy(w.q_a_norm, q_a_norm), copy(w.kv_a_norm, kv_a_norm);
  }
};

template <class T, formats F, int D, int Width, glu Act>
requires(device::is_coded(F.experts)) struct frozen_weights<basic_cuda<T>, F, mlp<D, Width, Act>>
    : device::frozen_experts<F.experts> {
  constexpr explicit frozen_weights(arena& memory)
      : device::frozen_experts<F.experts>(memory, 1, D, Width) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    device::frozen_experts<F.experts>::fill(on, bind_weights<mlp<D, Width, Act>, T const>(numbers));
  }
};
template <class T, formats F, config C>
requires(device::is_coded(F.experts)) struct frozen_weights<basic_cuda<T>, F, shared_experts<C>>
    : device::frozen_experts<F.experts> {
  matrix<T> shared_gate;  // (1, D), or empty
  constexpr explicit frozen_weights(arena& memory)
      : device::frozen_experts<F.experts>(memory, 1, C.hidden, C.shared * C.width),
        shared_gate(memory.matrix<T>(C.shared_gate ? 1 : 0, C.hidden)) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    auto const w = bind_weights<shared_experts<C>, T const>(numbers);
    device::frozen_experts<F.experts>::fill(on, w);
    place<basic_cuda<T>>::copy(on, w.shared_gate.data, w.shared_gate.size(), shared_gate.data);
  }
};
template <class T, formats F, config C>
requires(device::is_coded(F.experts)) struct frozen_weights<basic_cuda<T>, F, routed_experts<C>>
    : device::frozen_routed<T, F.experts, C, routed_experts<C>> {
  using device::frozen_routed<T, F.experts, C, routed_experts<C>>::frozen_routed;
};
template <class T, formats F, config C, Expr Router>
requires(
    device::is_coded(F.experts)) struct frozen_weights<basic_cuda<T>, F, routed_experts<C, Router>>
    : device::frozen_routed<T, F.experts, C, routed_experts<C, Router>> {
  using E = routed_experts<C, Router>;
  static constexpr std::int64_t own_size = weights_size<Router>();
  matrix<T> own_numbers;         // as they are, as every router's
  weights<Router, T const> own;  // views of them
  constexpr explicit frozen_weights(arena& memory)
      : device::frozen_routed<T, F.experts, C, E>(memory),
        own_numbers(memory.matrix<T>(1, own_size)),
        own(bind_weights<Router, T const>(own_numbers.data)) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    device::frozen_routed<T, F.experts, C, E>::fill(on, numbers);
    place<basic_cuda<T>>::copy(on, numbers + weights_size<E>() - own_size, own_size,
                               own_numbers.data);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
