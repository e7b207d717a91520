// Combine: a token's row is the sum of its experts' rows, each times its weight, in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/matrix.hpp"
#include "../plan/plan.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// What is added up for each token: first the shared experts' row, then the slots' in ascending
/// k, all that times `scale`, then `also`. Absent weights count as 1, absent rows as 0.
struct combination {
  matrix<float const> shared = {};       // (T, D)
  float const* shared_weight = nullptr;  // (T)
  matrix<float const> slots = {};        // (pairs, D), sorted by expert
  matrix<std::int32_t const> slot = {};  // (T, k), below 0 where there is none
  matrix<float const> weights = {};      // (T, k)
  float scale = 1;                       // of the sum so far,
  matrix<float const> also = {};         // (T, D), e.g. a residual
};

/// y (T, D).
FINEGRAIN_LAZY inline void combine(cpu const& on, combination const& c, matrix<float> y) {
  detail::for_rows<16>(on, y.rows, [&](std::int64_t t, int) {
    float* const FINEGRAIN_RESTRICT to = y.row(t);
    if (!c.shared.data) {
      std::fill_n(to, y.cols, 0.0f);
    } else {
      float const* const from = c.shared.row(t);
      float const w = c.shared_weight ? c.shared_weight[t] : 1.0f;
      for (std::int64_t d = 0; d < y.cols; ++d) to[d] = w * from[d];
    }
    for (std::int64_t k = 0; k < c.slot.cols; ++k) {
      if (c.slot(t, k) < 0) continue;
      float const* const from = c.slots.row(c.slot(t, k));
      float const w = c.weights.data ? c.weights(t, k) : 1.0f;
      for (std::int64_t d = 0; d < y.cols; ++d) to[d] += w * from[d];
    }
    if (c.scale != 1)
      for (std::int64_t d = 0; d < y.cols; ++d) to[d] *= c.scale;
    if (c.also.data) {
      float const* const from = c.also.row(t);
      for (std::int64_t d = 0; d < y.cols; ++d) to[d] += from[d];
    }
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
