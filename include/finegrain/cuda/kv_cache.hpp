// device_cache: the cache of generation on the device, and what a pass tells kernels of it: it needs
// batches, which kernels do without.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/kv_cache.hpp"
#include "buffer.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Lengths are the host's. Of several sequences a pass takes a copy to the device, with where the
/// batch's begin, and makes of them where each token's row goes.
template <class T>
struct device_cache : kv_cache<T, device_buffer<T>> {
  using base = kv_cache<T, device_buffer<T>>;
  device_buffer<std::int64_t> lists;   // starts (sequences + 1), and lengths before the pass
  std::int64_t const* rows = nullptr;  // (T) of the pass that runs

  device_cache(std::int64_t width, std::int64_t capacity, std::int64_t sequences = 1)
      : base(width, capacity, sequences), lists(sequences > 1 ? 2 * sequences + 1 : 0) {}

  earlier past() const {
    earlier made = base::past();
    made.rows = rows;
    return made;
  }
};

namespace device {

/// Those of a batch whose lists are on the device; behind several sequences in a cache it has
/// positions.
inline places places_of(batch const& b, std::int64_t tokens, earlier const& past) {
  return {.tokens = tokens,
          .starts = b.starts.empty() ? nullptr : b.starts.data(),
          .sequences = b.sequences(),
          .positions = b.positions.empty() ? nullptr : b.positions.data(),
          .past = past.rows ? 0 : past.length(0)};
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
