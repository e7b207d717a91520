// cached_rows: where rows of new tokens go in a cache, and how they get there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/matrix.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

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
