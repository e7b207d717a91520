// room: how large tiles, panels and blocks of a product are, and the memory that one task needs.
//
// A block of A's rows and B's columns is multiplied `depth` units of k at a time. A tile is a strip of
// the ones times a panel of the others:
//
//                panel   panel   ...        panel_width columns each; up to block_panels a block
//       strip    tile    tile    ...        up to strip_rows rows each; block_rows a block
//       strip    tile    tile    ...
//
// Where loads are scarce a tile is half a strip's rows, and two panels wide.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "integers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

inline constexpr std::int64_t line = 16;                    // floats in a cache line
inline constexpr int vectors = 2;                           // side by side in a tile of a product
inline constexpr int panel_width = vectors * lanes;         // columns of a packed panel
inline constexpr int tile_rows = registers == 32 ? 14 : 6;  // sums, B and one of A fill registers
/// Units of k between two looks at where the loop ends, and at what is fetched: short rows of registers leave
/// little else to do in one, and scarce loads none to spare.
inline constexpr int together = registers == 16 || scarce_loads ? 4 : 1;
/// Whether the first level has few places for lines on their way, as a Zen 4's. Of the others only Cooper Lake
/// has AVX512_BF16 without AVX-VNNI.
#if defined(__AVX512BF16__) && !defined(__AVXVNNI__)
inline constexpr bool few_places = true;
#else
inline constexpr bool few_places = false;
#endif
inline constexpr int depth = 256;  // k's at a time: a panel and a tile's rows stay in L1
/// Panels side by side in a strip's tiles. Where loads are scarce there are two, if numbers are multiplied as
/// they stand in memory: six rows of two panels load ten vectors for 24 multiply-adds, where 14 rows of one
/// panel load 16 for 28.
template <format F>
inline constexpr int tile_panels = [] {
  if constexpr (Integers<F>)
    return scarce_loads && byte_products && unit<F>::few < any_rows ? 2 : 1;
  else
    return scarce_loads && (unit<F>::parts == 1 || F == format::fp8) ? 2 : 1;  // fp8's are floats
}();
/// Units of k at a time of a tile's panels, which so stay in L1: of weights that are packed ahead, and of B
/// as stored. Weights that are turned over as they are packed are read in longer rows, of `depth`.
template <format F>
inline constexpr int block_depth = depth / tile_panels<F>;
/// Rows of a tile, which registers for matrices let be higher. Codes of 4 bits are taken apart by a mask,
/// which of 16 registers is one too many for a whole tile.
template <format F>
inline constexpr int tile_height = tile_panels<F> > 1  ? 6
                                   : unit<F>::deep > 1 ? 32
                                   : in_matrices<F>    ? 16
                                   : (F == format::int4 && registers == 16) && byte_products
                                       ? tile_rows - 1
                                       : tile_rows;
/// Rows of A in a strip: of a tile, or of two where they are wide and low.
template <format F>
inline constexpr int strip_rows = tile_panels<F>* tile_height<F>;
template <format F>
constexpr int tiles_of(int height) {
  return ceil_div(height, tile_height<F>);
}
inline constexpr int at_once = std::min(depth, 4096 / panel_width);  // of f32 in 16 kB: half an L1
/// Rows that share one packing of B. Beside registers for matrices, packing takes longer than products,
/// and a second-level cache holds 2 MB.
inline constexpr int block_rows = unit<format::bf16>::deep > 1 ? 192 : 96;
inline constexpr int block_cols = 128;
inline constexpr int block_panels = block_cols / panel_width;
/// A's strips, of two parts for each unit, what blocks have, and a line or two behind each strip.
inline constexpr int left_size =
    block_rows * (2 * depth + depth / 8) + (block_rows / strip_rows<format::f32> + 2) * 32;
inline constexpr int right_size = 3 << 15;

/// What one task needs beside its operands, on its stack. Numbers, or units of a format.
struct room {
  alignas(64) float left[left_size];                // A: strips, in any format
  alignas(64) float right[right_size];              // B: (panel, k, column)
  alignas(64) float sums[block_rows * block_cols];  // (panel, row, column): the product
};

/// What a tile's sums begin at.
enum class sink {
  fresh,  // they begin at 0
  go_on,  // they begin where they were
};
/// Where the next of several strips or panels has its rows, its panel and its sums, from those of the last.
struct tile_step {
  std::int64_t rows, panel, sums;
};
/// Panels side by side: a panel begins `apart` numbers behind the one before it, its sums begin `sums_apart`
/// behind that one's, and its blocks' scales, if they have any, `scales_apart`.
struct panels_abreast {
  float const* first;
  int count = 1;
  std::int64_t apart = 0, sums_apart = 0;
  float const* scales = nullptr;
  std::int64_t scales_apart = 0;
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
