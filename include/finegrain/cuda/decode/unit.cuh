// How the work of a product for few tokens is cut into units, and what a warp has of one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gated.cuh"
#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// n / of without a division, for n * of below 2^40 and n / of below 2^24.
struct divisor {
  std::uint32_t of = 1;
  std::uint64_t factor = std::uint64_t{1} << 40;
  divisor() = default;
  explicit divisor(int by)
      : of(static_cast<std::uint32_t>(by)), factor(ceil_div(std::uint64_t{1} << 40, of)) {}
  FINEGRAIN_HD int divide(int n) const {
    return static_cast<int>(static_cast<std::uint64_t>(n) * factor >> 40);
  }
};

/// How a product's work is cut. A unit is a tile of tokens and warps / split times Blocks times 16
/// weight rows; `split` warps share the columns of the same rows.
struct cut {
  int split;
  int shared_units;                      // they stand first
  divisor shared_blocks, routed_blocks;  // units of a tile
};
/// Outputs that 16 weight rows make: up has 8 of the gate and the same 8 of up.
template <bool Up>
inline constexpr int outputs = Up ? 8 : 16;

/// Where a unit stands: its tile among its family's, and its weight rows among the tile's.
struct position {
  bool shared;
  int tile, block;
  __device__ position(cut const& how, int index) : shared(index < how.shared_units) {
    auto const& blocks = shared ? how.shared_blocks : how.routed_blocks;
    int const n = shared ? index : index - how.shared_units;
    tile = blocks.divide(n);
    block = n - tile * static_cast<int>(blocks.of);
  }
  /// {expert, first row, rows}
  template <class T>
  __device__ int4 rows(expert_products<T> const& p) const {
    if (!shared) return reinterpret_cast<int4 const*>(p.rows.tiles)[tile];
    int const first = tile * p.rows.tile;
    return {0, first, min(p.rows.tile, p.rows.tokens - first), 0};
  }
};

template <class T, class W, int Blocks, bool Up>
struct unit {
  expert_family<T> const* family;
  int4 tile;
  int output;  // of this warp's weights the first one's
  int stored;  // rows that are written: the tile's, and pads as zeros

  __device__ unit(expert_products<T> const& p, cut const& how, position at, int4 tile)
      : family(at.shared ? &p.shared : &p.routed), tile(tile) {
    int const groups = warps / how.split, group = static_cast<int>(threadIdx.x) / 32 / how.split;
    output = (at.block * groups + group) * (Blocks * outputs<Up>);
    stored = at.shared ? tile.z : p.rows.tile;
  }
  __device__ int columns(expert_products<T> const& p) const {  // of weights
    return Up ? p.hidden : family->width;
  }
  __device__ int width(expert_products<T> const& p) const {  // of what is written
    return Up ? family->width : p.hidden;
  }

  /// This lane's of the m-th 16 weight rows.
  __device__ lane_weights<W, Up> weights(expert_products<T> const& p, family_weights<W> const& w,
                                         int m) const {
    return {w, tile.x, output + m * outputs<Up>, width(p), columns(p)};
  }

  /// Where token n's numbers stand, in 16 bytes. Where there is none: the last one's, whose
  /// products are not stored.
  __device__ std::uint32_t input(expert_products<T> const& p, int n) const {
    std::int64_t row = tile.y + min(n, tile.z - 1);
    if (Up && family == &p.routed) row = p.rows.row_token[row];
    return static_cast<std::uint32_t>((row * columns(p) + lane_column<W>()) / 8);
  }

  /// What a lane has of 16 weight rows' products with token n and the next one.
  __device__ void store(expert_products<T> const& p, int block, int n, float4 sum) const {
    int const to = output + block * outputs<Up> + static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (n + i >= stored || to >= width(p)) continue;
      bool const pad = n + i >= tile.z;
      std::int64_t const row = tile.y + n + i;
      float const low = pad ? 0.0f : i ? sum.y : sum.x, high = pad ? 0.0f : i ? sum.w : sum.z;
      if constexpr (Up) {
        family->hidden[row * width(p) + to] = T(gate_one(p.act, low, high));
        if (family->z) {
          family->z[2 * row * width(p) + to] = T(low);
          family->z[(2 * row + 1) * width(p) + to] = T(high);
        }
      } else {
        family->out[row * width(p) + to] = T(low);
        if (to + 8 < width(p)) family->out[row * width(p) + to + 8] = T(high);
      }
    }
  }
};

}  // namespace decode
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
