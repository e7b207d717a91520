// packed: products by packed panels, for B as stored and for weights with short rows.
//
// Up to 96 rows of A and 128 columns of B, depth by depth, are copied to where they stay in the
// second-level cache (B as panels, k by k, each a whole number of vectors), and tiles of up to 6
// rows run over a panel in the first-level cache. Each sum is one chain over k = 0, 1, 2, ...
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operands.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// sums(Rows, panel_width) = or, if not fresh, += a(Rows, count) . panel(count, panel_width).
template <int Rows>
void tile(float const* a, std::int64_t stride, std::int64_t count, float const* panel, bool fresh,
          float* sums, ahead const& next) {
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[r][j] = fresh ? vec{} : load(sums + r * panel_width + j * lanes);
  }
  auto step = [&](std::int64_t k) __attribute__((always_inline)) {
    vec b[vectors];
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) b[j] = load(panel + k * panel_width + j * lanes);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(a[r * stride + k]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) add_product(x, b[j], sum[r][j]);
    }
  };
  std::int64_t k = 0;
  for (; k + line <= count; k += line) {
    next.fetch(k);
    for (std::int64_t i = 0; i < line; ++i) step(k + i);
  }
  for (; k < count; ++k) step(k);
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * panel_width + j * lanes, sum[r][j]);
  }
}
inline void tile(int rows, float const* a, std::int64_t stride, std::int64_t count,
                 float const* panel, bool fresh, float* sums, ahead const& next = {}) {
  using function =
      void (*)(float const*, std::int64_t, std::int64_t, float const*, bool, float*, ahead const&);
  static constexpr function height[tile_rows] = {tile<1>, tile<2>, tile<3>,
                                                 tile<4>, tile<5>, tile<6>};
  height[rows - 1](a, stride, count, panel, fresh, sums, next);
}

/// Tiles of room.left(rows, count) on one packed panel, of nearly equal height. list(t, tiles, next)
/// says what the tile is to fetch meanwhile.
template <class List>
void multiply_panel(room& room, int rows, std::int64_t count, float const* panel, bool fresh,
                    float* sums, List&& list) {
  int const tiles = (rows + tile_rows - 1) / tile_rows;
  ahead next;
  for (int t = 0; t < tiles; ++t) {
    int const begin = rows * t / tiles, end = rows * (t + 1) / tiles;
    list(t, tiles, next);
    tile(end - begin, room.left + begin * left_stride, left_stride, count, panel, fresh,
         sums + begin * panel_width, next);
  }
}

/// room.sums = a(rows, K) . B(K, panels [first, last)), for up to block_rows rows and block_panels
/// panels. What is packed next is fetched while the tiles of the one before run.
template <class B>
void multiply(row_list a, int rows, std::int64_t K, B const& b, std::int64_t first,
              std::int64_t last, room& room) {
  for (std::int64_t k0 = 0; k0 < K; k0 += depth) {
    std::int64_t const count = std::min<std::int64_t>(depth, K - k0), k1 = k0 + count;
    std::int64_t const then = std::min<std::int64_t>(depth, K - k1);
    for (int r = 0; r < rows; ++r) std::copy_n(a[r] + k0, count, room.left + r * left_stride);
    if (B::whole_blocks) b.pack(first, last, k0, count, room.right, {});
    for (std::int64_t p = first; p < last; ++p) {
      float* const panel = room.right + (B::whole_blocks ? (p - first) * count * panel_width : 0);
      bool const more = p + 1 < last;
      ahead next;
      if (!B::whole_blocks) {
        if (more)
          b.list(p + 1, 0, k0, count, 0, 2, next);
        else
          b.list(first, 0, k1, then, 0, 2, next);
        b.pack(p, 0, k0, count, panel, next);
      }
      multiply_panel(
          room, rows, count, panel, k0 == 0, room.sums + (p - first) * rows * panel_width,
          [&](int t, int tiles, ahead& list) {
            if (B::whole_blocks)
              b.list(first, last, k1, then, (p - first) * tiles + t, (last - first) * tiles, list);
            else if (more)
              b.list(p + 1, 0, k0, count, tiles + t, 2 * tiles, list);
            else
              b.list(first, 0, k1, then, tiles + t, 2 * tiles, list);
          });
    }
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
