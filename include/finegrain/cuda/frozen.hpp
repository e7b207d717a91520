// Frozen stages on the device: weights as codes, in memory of their own; routers stay as they are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <type_traits>

#include "../expr/latent_attention.hpp"
#include "../plan/frozen.hpp"
#include "coded_linear.hpp"
#include "frozen_experts.hpp"
#include "place.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Fills a frozen stage's weight: the codes of numbers, or the numbers as they are.
template <class T, format F>
void freeze(basic_cuda<T> const& on, std::type_identity_t<matrix<T const>> from,
            device::coded_weight<F> const& to) {
  device::coded_linear<T, F>::pack(from.data, to, on.stream);
}
template <class T>
void freeze(basic_cuda<T> const& on, std::type_identity_t<matrix<T const>> from,
            std::type_identity_t<matrix<T>> to) {
  place<basic_cuda<T>>::copy(on, from.data, to.size(), to.data);
}

namespace device {

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
    freeze(on, w.router, router), freeze(on, w.project, project);
    freeze(on, w.temperature, temperature);
    freeze_summed(on, w.bias, bias), freeze_summed(on, w.table, table);
  }

 private:
  /// Numbers of a selection bias or a table, with what rounding left of them (`summed`).
  static constexpr std::int64_t room_of(matrix<T const> m) {
    return m.size() > 0 ? finegrain::detail::stored_size(m.size(), role::selection_bias) : 0;
  }
  static void freeze_summed(basic_cuda<T> const& on, matrix<T const> from, matrix<T> to) {
    place<basic_cuda<T>>::copy(on, from.data, room_of(from), to.data);
  }
};

/// The weight (Out, In) of a product in format F.
template <class T, format F, int In, int Out>
struct frozen_product {
  static_assert(In % 8 == 0, "on cuda, rows of a weight in codes have a multiple of 8 numbers");
  coded_weight<F> weight;

  constexpr explicit frozen_product(arena& memory) : weight(memory, Out, In) {}
  void fill(basic_cuda<T> const& on, T const* numbers) const {
    freeze(on, {numbers, Out, In}, weight);
  }
};

}  // namespace device

/// Codes stand alike for every device, whichever kernels read them; all else is the network's numbers,
/// whatever the formats.
template <class T>
struct packed_form<basic_cuda<T>> {
  static std::string executor() {
    return std::string("cuda, numbers of ") + (std::is_same_v<T, float>  ? "f32"
                                               : std::is_same_v<T, bf16> ? "bf16"
                                                                         : "fp16");
  }

  template <format F>
  static std::string text() {
    return device::is_coded(F) ? name_of(F) : "the network's numbers";
  }
  template <format F>
  static void prepare() {}
};

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
    freeze(on, w.query, query), freeze(on, w.query_bias, query_bias);
    freeze(on, w.key, key), freeze(on, w.key_bias, key_bias);
    freeze(on, w.value, value), freeze(on, w.value_bias, value_bias);
    freeze(on, w.query_norm, query_norm), freeze(on, w.key_norm, key_norm);
    freeze(on, w.output, output);
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
    freeze(on, w.q_proj, q_proj), freeze(on, w.q_a, q_a);
    freeze(on, w.q_a_norm, q_a_norm), freeze(on, w.q_b, q_b);
    freeze(on, w.kv_a, kv_a), freeze(on, w.kv_a_norm, kv_a_norm);
    freeze(on, w.kv_b, kv_b), freeze(on, w.output, output);
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
    freeze(on, w.shared_gate, shared_gate);
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
    freeze(on, {numbers + weights_size<E>() - own_size, 1, own_size}, own_numbers);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
