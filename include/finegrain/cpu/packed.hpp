// packed: products by packed panels, for B as stored and for weights with short rows.
//
// Up to 96 rows of A and 128 columns of B, depth by depth, are copied to where they stay in the
// second-level cache (B as panels of two vectors' columns, k by k), and tiles of up to 14
// rows (6 where there are 16 registers) run over a panel in the first-level cache. Each sum is
// one chain over k = 0, 1, 2, ...
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "operands.hpp"
#include "unit.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// sums(Rows, panel_width) = or, if not fresh, += a . panel, over `units` units of k. Of `a`, blocks
/// of `depth` units follow one another, in each the tile's rows, left_stride apart.
template <format F, int Rows>
void tile(float const* a, std::int64_t units, float const* panel, bool fresh, float* sums,
          ahead const& next) {
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[r][j] = fresh ? vec{} : load(sums + r * panel_width + j * lanes);
  }
  auto step = [&](float const* from) __attribute__((always_inline)) {
    vec const b0 = load(panel), b1 = load(panel + lanes);
    panel += panel_width;
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(from[r * left_stride]);
      unit<F>::multiply_add(x, b0, sum[r][0]);
      unit<F>::multiply_add(x, b1, sum[r][1]);
    }
  };
  for (std::int64_t k0 = 0; k0 < units; k0 += depth, a += Rows * left_stride) {
    std::int64_t const count = std::min<std::int64_t>(depth, units - k0);
    std::int64_t k = 0;
    for (; k + line <= count; k += line) {
      next.fetch(k0 + k);
      for (std::int64_t i = 0; i < line; ++i) step(a + k + i);
    }
    for (; k < count; ++k) step(a + k);
  }
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * panel_width + j * lanes, sum[r][j]);
  }
}
template <format F>
void tile(int rows, float const* a, std::int64_t units, float const* panel, bool fresh, float* sums,
          ahead const& next) {
  using function = void (*)(float const*, std::int64_t, float const*, bool, float*, ahead const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{tile<F, R + 1>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, units, panel, fresh, sums, next);
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
    tile<format::f32>(end - begin, room.left + begin * left_stride, count, panel, fresh,
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
