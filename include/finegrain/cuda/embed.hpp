// The embedding on the device: row `id` of a table for each token id.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/bounds.hpp"
#include "../base/buffer.hpp"
#include "../plan/extent.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What backward works in. Tokens are put in the order of their ids, and summed in chunks of that.
struct embed_scratch {
  static constexpr int chunk = 32;      // tokens that one block adds up
  static constexpr int digit_bits = 9;  // of an id, sorted in one pass
  static constexpr int digits = 1 << digit_bits;

  std::int32_t* order[2] = {};     // (T) token numbers, sorted by id
  std::int32_t* counts = nullptr;  // (shares, digits)
  float* partial = nullptr;        // (chunks, 2, D) sums of ids that cross a chunk's borders

  /// Blocks that sort; each one's tokens are counted apart.
  static constexpr std::int64_t shares(std::int64_t T) {
    return at_most<std::int64_t>(ceil_div(T, 2 * digits), 64);
  }
  static constexpr std::int64_t chunks(std::int64_t T) { return ceil_div(T, chunk); }

  constexpr embed_scratch() = default;
  constexpr embed_scratch(arena& memory, std::int64_t T, std::int64_t D)
      : order{memory.take<std::int32_t>(T), memory.take<std::int32_t>(T)},
        counts(memory.take<std::int32_t>(shares(T) * digits)),
        partial(memory.take<float>(chunks(T) * 2 * D)) {}
};

/// Rows begin on 16-byte borders and D is a multiple of 8. Ids are in memory of the device.
template <class T>
struct embed {
  /// y (T, D) = rows of table (V, D). NaN where an id is not a row of the table.
  static void forward(std::int32_t const* ids, matrix<T const> table, matrix<T> y,
                      CUstream_st* stream);
  /// dtable (V, D) (+)= for each token its dy (T, D), at the row of its id. Tokens of one id are
  /// added up in f32 before.
  static void backward(std::int32_t const* ids, matrix<T const> dy, embed_scratch const& scratch,
                       gradients mode, matrix<T> dtable, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
