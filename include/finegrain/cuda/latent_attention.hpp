// Latent attention on the device: what its plan (plan/latent_attention.hpp) calls.
//
// A pass that finds earlier tokens in its cache lets queries meet the latent vectors there, some
// tokens at a time. One that finds none makes its own tokens' keys and values, also without a
// gradient: that costs as much as moving its queries and sums to the latent vectors' side, and its
// softmax has a third of the products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../plan/latent_attention.hpp"
#include "attention.hpp"
#include "elementwise.hpp"
#include "executor.hpp"
#include "kv_cache.hpp"
#include "linear.hpp"
#include "norm.hpp"
#include "project.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

template <class T>
void copy_heads(basic_cuda<T> const& on, int heads, int columns,
                std::type_identity_t<matrix<T const>> from, int from_step,
                std::type_identity_t<matrix<T>> to, int to_step) {
  device::heads_columns<T>::copy(heads, columns, from, from_step, to, to_step, on.stream);
}
template <class T>
void sum_heads(basic_cuda<T> const& on, int heads, std::type_identity_t<matrix<T const>> from,
               int from_step, std::type_identity_t<matrix<T>> to) {
  device::heads_columns<T>::sum(heads, from, from_step, to, on.stream);
}

/// Rotary positions of neighbours: those of `attention` its plan turns itself.
template <class T>
void rotate(basic_cuda<T> const& on, batch const& b, earlier const& past, rotary const& how,
            std::type_identity_t<matrix<T>> m) {
  device::rotary<T>::turn_neighbours(device::places_of(b, m.rows, past), how, 1, m, on.stream);
}
template <class T>
void unrotate(basic_cuda<T> const& on, batch const& b, rotary const& how,
              std::type_identity_t<matrix<T>> m) {
  device::rotary<T>::turn_neighbours(device::places_of(b, m.rows, {}), how, -1, m, on.stream);
}

template <class T>
void rmsnorm_forward(basic_cuda<T> const& on, std::type_identity_t<matrix<T const>> x,
                     std::type_identity_t<matrix<T const>> gain, float epsilon,
                     std::type_identity_t<matrix<T>> y, float* inverse_rms) {
  device::norm<T>::forward(x, gain.data, epsilon, y, inverse_rms, on.stream);
}

/// With values of a size of their own.
template <class T>
void attend_forward(basic_cuda<T> const& on, heads shape, batch const& b, earlier const& past,
                    std::type_identity_t<matrix<T const>> q,
                    std::type_identity_t<matrix<T const>> keys,
                    std::type_identity_t<matrix<T const>> values,
                    std::type_identity_t<matrix<T>> mixed, matrix<float> log_weight) {
  device::latent_attend<T>::forward(shape, device::places_of(b, q.rows, past), q, keys, values,
                                    mixed, log_weight.data, on.stream);
}

/// With K_h, kv_b's first `nope` rows of a head: a key is K_h c, so q . (K_h c) = (K_h^T q) . c.
template <class T>
void latent_queries(basic_cuda<T> const& on, int heads, latent const& n,
                    std::type_identity_t<matrix<T const>> q,
                    std::type_identity_t<matrix<T const>> kv_b,
                    std::type_identity_t<matrix<T>> to) {
  device::linear<T>::backward_input_each(
      on.context->blas, heads, q.middle_cols(0, n.nope), n.nope + n.rope,
      kv_b.middle_rows(0, n.nope), (n.nope + n.value) * kv_b.stride, to.middle_cols(0, n.kv_rank),
      n.kv_rank + n.rope, on.stream);
}
/// With V_h, the `value` rows behind them: the mean of V_h c is V_h times the mean of c.
template <class T>
void latent_values(basic_cuda<T> const& on, int heads, latent const& n,
                   std::type_identity_t<matrix<T const>> from,
                   std::type_identity_t<matrix<T const>> kv_b, std::type_identity_t<matrix<T>> to) {
  device::linear<T>::forward_each(on.context->blas, heads, from.middle_cols(0, n.kv_rank),
                                  n.kv_rank, kv_b.middle_rows(n.nope, n.value),
                                  (n.nope + n.value) * kv_b.stride, to.middle_cols(0, n.value),
                                  n.value, on.stream);
}

template <class T, int D, int Heads, latent N>
struct latent_room<basic_cuda<T>, D, Heads, N> {
  using X = basic_cuda<T>;
  using kernels = device::latent_attend<T>;
  static_assert(N.q_rank % 8 == 0 && N.kv_rank % 8 == 0 && N.nope % 8 == 0 && N.rope % 8 == 0 &&
                    N.value % 8 == 0,
                "on cuda, latent attention's q_rank, kv_rank, nope, rope and value must be "
                "multiples of 8");
  static_assert(N.nope + N.rope <= kernels::most_dim && N.value <= kernels::most_value &&
                    N.kv_rank <= kernels::most_rank && N.kv_rank + N.rope <= kernels::most_row,
                "on cuda, latent attention has nope + rope of at most 192, value 128, kv_rank 512 "
                "and kv_rank + rope 576");
  static constexpr bool expands = true;
  static constexpr std::int64_t at_once(std::int64_t tokens) {
    return at_most<std::int64_t>(tokens, 128);
  }

  float *sums, *delta, *parts;
  T* numbers;  // of a weight in codes
  constexpr latent_room(arena& memory, extent e)
      : sums(memory.take<float>(e.training ? std::max(sums_of(e, N.kv_rank), sums_of(e, N.q_rank))
                                           : 0)),
        delta(memory.take<float>(e.training ? e.tokens * Heads : 0)),
        parts(memory.take<float>(
            e.training ? 0
                       : device::latent_floats({Heads, 1, N.kv_rank + N.rope, N.kv_rank},
                                               at_once(e.tokens)))),
        numbers(memory.take<T>(most_numbers(e))) {}

  template <class W>
  void product(X const& on, matrix<T const> x, W const& w, matrix<T> y) const {
    device::project(on, x, w, gradients::overwrite, y, numbers);
  }
  void normalise_back(X const& on, matrix<T const> x, matrix<T const> gain, float const* rms,
                      matrix<T const> dy, matrix<T> dgain, gradients mode, matrix<T> dx) const {
    device::norm<T>::backward(x, gain.data, rms, dy, {}, sums, dgain.data, mode, dx, on.stream);
  }
  void attend_back(X const& on, heads shape, batch const& b, matrix<T const> q, matrix<T const> k,
                   matrix<T const> v, matrix<T const> mixed, matrix<float const> log_weight,
                   matrix<T const> dmixed, matrix<T> dq, matrix<T> dk, matrix<T> dv) const {
    kernels::backward(shape, device::places_of(b, q.rows, {}), q, k, v, mixed, log_weight.data,
                      dmixed, dq, dk, dv, delta, on.stream);
  }
  void attend_rows(X const& on, heads shape, batch const&, earlier const& past, std::int64_t first,
                   matrix<T const> q, matrix<T const> rows, matrix<T> mixed,
                   matrix<float> log_weight) const {
    if (past.rows)
      kernels::decode_each(shape, {q.rows, past.rows + first, past.capacity}, q, rows, mixed,
                           log_weight.data, parts, on.stream);
    else
      kernels::decode(shape, {.tokens = q.rows, .past = past.length(0) + first}, q, rows, mixed,
                      log_weight.data, parts, on.stream);
  }

 private:
  static constexpr std::int64_t most_numbers(extent e) {
    constexpr int queries = Heads * (N.nope + N.rope), inner = N.q_rank > 0 ? N.q_rank : D;
    return std::max({device::decoded_numbers(e, N.q_rank, D),
                     device::decoded_numbers(e, queries, inner),
                     device::decoded_numbers(e, N.kv_rank + N.rope, D),
                     device::decoded_numbers(e, D, Heads * N.value)});
  }
  static constexpr std::int64_t sums_of(extent e, int columns) {
    return device::norm_parts(e.tokens, columns) * columns;
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
