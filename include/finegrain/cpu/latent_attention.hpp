// Latent attention's products of each head with its own part of kv_b.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/latent_attention.hpp"
#include "attention.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// Of each head: y_h = x_h . B(h), where x_h is (T, K) and begins x_step columns behind the one
/// before, and y_h is (T, N). A task is a block of rows and columns of a head.
template <class Right>
void multiply_heads(cpu const& on, int heads, matrix<float const> x, std::int64_t K,
                    std::int64_t x_step, Right&& b, matrix<float> y, std::int64_t N,
                    std::int64_t y_step) {
  std::int64_t const groups = groups_of(N);
  in_blocks(on, y.rows, heads * groups,
            [&](std::int64_t begin, std::int64_t rows, std::int64_t group) {
              std::int64_t const h = group / groups;
              multiply_group(on, x.middle_rows(begin, rows).middle_cols(h * x_step, K), b(h),
                             group % groups, y.middle_rows(begin, rows).middle_cols(h * y_step, N),
                             gradients::overwrite);
            });
}

/// kv_b of a frozen network: each head's part for keys, turned over, and that for values.
template <format F>
struct latent_panels {
  panels<F> keys;    // heads x (kv_rank, nope)
  panels<F> values;  // heads x (value, kv_rank)

  constexpr latent_panels(arena& memory, int heads, latent const& n)
      : keys(memory, heads, n.kv_rank, n.nope), values(memory, heads, n.value, n.kv_rank) {}
  void fill(cpu const& on, matrix<float const> kv_b) const {
    std::int64_t const nope = keys.cols, value = values.rows, rank = keys.rows;
    buffer<float> turned(keys.count * rank * nope), straight(keys.count * value * rank);
    on.threads(keys.count, [&](std::int64_t h, int) {
      auto const from = kv_b.middle_rows(h * (nope + value), nope + value);
      for (std::int64_t r = 0; r < nope; ++r)
        for (std::int64_t c = 0; c < rank; ++c) turned[(h * rank + c) * nope + r] = from(r, c);
      std::copy_n(from.row(nope), value * rank, straight.data() + h * value * rank);
    });
    fill_panels(on, keys, stack<float const>{turned.data(), keys.count, rank, nope});
    fill_panels(on, values, stack<float const>{straight.data(), keys.count, value, rank});
  }
};

}  // namespace simd

/// With K_h, kv_b's first `nope` rows of a head: a key is K_h c, so q . (K_h c) = (K_h^T q) . c.
FINEGRAIN_LAZY inline void latent_queries(cpu const& on, int heads, latent const& n,
                                          matrix<float const> q, matrix<float const> kv_b,
                                          matrix<float> to) {
  auto const keys = [&](std::int64_t h) {
    return simd::straight{on.copy.of(kv_b.middle_rows(h * (n.nope + n.value), n.nope)), n.kv_rank};
  };
  simd::multiply_heads(on, heads, q, n.nope, n.nope + n.rope, keys, to, n.kv_rank,
                       n.kv_rank + n.rope);
}
template <format F>
void latent_queries(cpu const& on, int heads, latent const& n, matrix<float const> q,
                    simd::latent_panels<F> const& kv_b, matrix<float> to) {
  simd::multiply_heads(
      on, heads, q, n.nope, n.nope + n.rope, [&](std::int64_t h) { return kv_b.keys.only(h); }, to,
      n.kv_rank, n.kv_rank + n.rope);
}

/// With V_h, the `value` rows behind them: the mean of V_h c is V_h times the mean of c.
FINEGRAIN_LAZY inline void latent_values(cpu const& on, int heads, latent const& n,
                                         matrix<float const> from, matrix<float const> kv_b,
                                         matrix<float> to) {
  auto const values = [&](std::int64_t h) {
    return simd::across(on, kv_b.middle_rows(h * (n.nope + n.value) + n.nope, n.value));
  };
  simd::multiply_heads(on, heads, from, n.kv_rank, n.kv_rank, values, to, n.value, n.value);
}
template <format F>
void latent_values(cpu const& on, int heads, latent const& n, matrix<float const> from,
                   simd::latent_panels<F> const& kv_b, matrix<float> to) {
  simd::multiply_heads(
      on, heads, from, n.kv_rank, n.kv_rank, [&](std::int64_t h) { return kv_b.values.only(h); },
      to, n.value, n.value);
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
