// Dispatch: the tokens of a batch in the order of their experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/buffer.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Slots that are kept, sorted by expert; an expert's tokens keep their order.
struct dispatched {
  std::int64_t* offsets;      // (R + 1): expert e has the slots [offsets[e], offsets[e + 1])
  std::int32_t* token;        // (pairs) the token in each slot
  matrix<std::int32_t> slot;  // (T, k) where each token's choices went; below 0: nowhere

  constexpr dispatched(arena& memory, std::int64_t tokens, int routed, int k, std::int64_t pairs)
      : offsets(memory.take<std::int64_t>(routed + 1)),
        token(memory.take<std::int32_t>(pairs)),
        slot(memory.matrix<std::int32_t>(tokens, k)) {}
};

/// Sorts by counting. Of `slot` it writes as many columns as `experts` has.
inline void dispatch(cpu const&, matrix<std::int32_t const> experts, int routed,
                     dispatched const& d) {
  std::fill_n(d.offsets, routed + 1, std::int64_t{0});
  for (std::int64_t t = 0; t < experts.rows; ++t)
    for (std::int64_t k = 0; k < experts.cols; ++k)
      if (experts(t, k) >= 0) ++d.offsets[experts(t, k) + 1];
  for (int e = 0; e < routed; ++e) d.offsets[e + 1] += d.offsets[e];
  for (std::int64_t t = 0; t < experts.rows; ++t)
    for (std::int64_t k = 0; k < experts.cols; ++k) {
      if (experts(t, k) < 0) {
        d.slot(t, k) = -1;
        continue;
      }
      auto const at = static_cast<std::int32_t>(d.offsets[experts(t, k)]++);
      d.slot(t, k) = at;
      d.token[at] = static_cast<std::int32_t>(t);
    }
  for (int e = routed; e > 0; --e) d.offsets[e] = d.offsets[e - 1];  // ends become begins again
  d.offsets[0] = 0;
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
