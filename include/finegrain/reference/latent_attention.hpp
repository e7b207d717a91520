// Latent attention's products of each head with its own part of kv_b.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/latent_attention.hpp"
#include "attention.hpp"
#include "linear.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// With K_h, kv_b's first `nope` rows of a head: a key is K_h c, so q . (K_h c) = (K_h^T q) . c.
template <class T>
void latent_queries(basic_reference<T> const&, int heads, latent const& n, spec::input<T> q,
                    spec::input<T> kv_b, spec::output<T> to) {
  int const query = n.nope + n.rope, row = n.kv_rank + n.rope;
  for (std::int64_t t = 0; t < q.rows; ++t)
    for (int h = 0; h < heads; ++h) {
      T* const made = to.row(t) + h * row;
      std::fill_n(made, n.kv_rank, T(0));
      for (int i = 0; i < n.nope; ++i)
        spec::add(q(t, h * query + i), kv_b.row(h * (n.nope + n.value) + i), made, n.kv_rank);
    }
}
/// With V_h, the `value` rows behind them: the mean of V_h c is V_h times the mean of c.
template <class T>
void latent_values(basic_reference<T> const&, int heads, latent const& n, spec::input<T> from,
                   spec::input<T> kv_b, spec::output<T> to) {
  for (std::int64_t t = 0; t < from.rows; ++t)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < n.value; ++i)
        to(t, h * n.value + i) = spec::dot(
            from.row(t) + h * n.kv_rank, kv_b.row(h * (n.nope + n.value) + n.nope + i), n.kv_rank);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
