// row_map: where tokens stand in the rows of experts, in memory of the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/bounds.hpp"
#include "../base/buffer.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Memory for so many numbers, or null: kernels write what has memory.
template <class T>
constexpr T* take_some(arena& memory, std::int64_t count) {
  T* const data = memory.take<T>(count);
  return count > 0 ? data : nullptr;
}

/// `count` (1 .. tile) rows of one expert, of which the first is `first`.
struct alignas(16) row_tile {
  std::int32_t expert, first, count, unused;
};

/// Rows of the routed experts, one for each token and slot that is kept: expert by expert, in an
/// expert token by token. An expert's rows begin at a multiple of `tile`; the rows between, and
/// those behind the last expert's, up to a multiple of `tile`, are pads. Everything but the counts
/// of the caller (T, k, R, tile) is written by the router's kernels, and read by kernels only.
struct row_map {
  int tokens = 0, slots = 0, experts = 0;  // T, k, R
  int tile = 128;                          // a power of 2
  std::int64_t share = 0;                  // where experts choose: rows of each, at most
  std::int32_t* counts = nullptr;          // (R) rows of each expert, without pads
  std::int32_t* offsets = nullptr;         // (R + 1) its first row; last, all rows with pads
  row_tile* tiles = nullptr;               // (max_tiles) expert by expert
  std::int32_t* tile_count = nullptr;      // (1)
  std::int32_t* row_token = nullptr;       // (max_rows) -1 in pads below offsets[R]
  float* row_weight = nullptr;             // (max_rows) 0 in pads
  std::int32_t* slot_row = nullptr;        // (T, k) -1 of a slot that is dropped or unused

  /// Slots that have rows, tiles and rows there are at most, whatever the routing.
  constexpr std::int64_t pairs() const {
    return share > 0 ? share * experts : std::int64_t{tokens} * at_most(slots, experts);
  }
  constexpr std::int64_t max_tiles() const {
    return pairs() / tile + at_most<std::int64_t>(pairs(), experts);
  }
  constexpr std::int64_t max_rows() const { return max_tiles() * tile; }

  constexpr row_map() = default;
  constexpr row_map(arena& memory, std::int64_t T, int k, int R, int tile, std::int64_t share = 0)
      : tokens(static_cast<int>(T)),
        slots(k),
        experts(R),
        tile(tile),
        share(share),
        counts(memory.take<std::int32_t>(R)),
        offsets(memory.take<std::int32_t>(R + 1)),
        tiles(memory.take<row_tile>(max_tiles())),
        tile_count(memory.take<std::int32_t>(1)),
        row_token(memory.take<std::int32_t>(max_rows())),
        row_weight(memory.take<float>(max_rows())),
        slot_row(memory.take<std::int32_t>(T * k)) {}
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
