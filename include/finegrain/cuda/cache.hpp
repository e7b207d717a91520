// The cache of generation on the device: where each sequence's rows are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/batch.hpp"
#include "buffer.hpp"

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

/// Where the tokens of a batch go in a cache of several sequences; lists are on the device.
struct seats {
  std::int64_t tokens = 0;
  std::int64_t const* rows = nullptr;  // (tokens) sequence * capacity + place in the sequence
  std::int64_t capacity = 0;
};

template <class T>
struct cached_rows {
  /// rows (tokens), and positions, if not null: the places in their sequences.
  static void find(std::int64_t const* starts, std::int64_t const* lengths, std::int64_t sequences,
                   std::int64_t capacity, std::int64_t tokens, std::int64_t* rows,
                   std::int64_t* positions, CUstream_st* stream);
  /// Row t of `from` becomes row rows[t] of `to`, or first + t where rows is null. Rows begin on
  /// 16-byte borders and have a multiple of 8 numbers.
  static void keep(matrix<T const> from, std::int64_t const* rows, std::int64_t first, matrix<T> to,
                   CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
