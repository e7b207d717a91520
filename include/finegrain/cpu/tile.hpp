// tile: a few rows of A times a panel of B, in registers. All products are made of it.
//
// Tiles of up to 14 rows (6 where there are 16 registers) run over a panel of two vectors' columns,
// k by k; here A lies row by row (left.hpp), in strips.hpp unit by unit. Each sum is one chain over
// k = 0, 1, 2, ..., whatever the tile, its neighbours or the number of rows: that is why a token's
// result does not depend on its batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "operands.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Units of k between two looks at where the loop ends: short rows of registers leave little else to
/// do in one.
inline constexpr int together = registers == 32 ? 1 : 4;

/// sum += a . panel, of one unit of k. Of `a`, rows stand Row apart and a unit's parts Part.
template <format F, int Rows, int Row = left_stride<F>, int Part = 1>
FINEGRAIN_INLINE void add_unit(float const* a, float const* panel, vec (&sum)[Rows][vectors]) {
  FINEGRAIN_UNROLL
  for (int i = 0; i < unit<F>::parts; ++i) {
    vec const b0 = unit<F>::part(load(panel), i), b1 = unit<F>::part(load(panel + lanes), i);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(a[r * Row + i * Part]);
      unit<F>::multiply_add(x, b0, sum[r][0]);
      unit<F>::multiply_add(x, b1, sum[r][1]);
    }
  }
}

/// sum += a . panel, over `units` units of k. Of `a`, blocks of `depth` units stand `block` apart, in
/// each the rows, left_stride<F> apart. Next is what is fetched meanwhile.
template <format F, int Rows>
FINEGRAIN_INLINE void add_tile(float const* a, std::int64_t block, std::int64_t units,
                               float const* panel, vec (&sum)[Rows][vectors], ahead const& next) {
  auto step = [&](float const* from) __attribute__((always_inline)) {
    add_unit<F, Rows>(from, panel, sum);
    panel += panel_width;
  };
  for (std::int64_t k0 = 0; k0 < units; k0 += depth, a += block) {
    std::int64_t const count = std::min<std::int64_t>(depth, units - k0);
    std::int64_t k = 0;
    for (; k + line <= count; k += line) {
      next.fetch(k0 + k);
      for (std::int64_t i = 0; i < line; i += together) {
        FINEGRAIN_UNROLL
        for (int j = 0; j < together; ++j) step(a + (k + i + j) * unit<F>::parts);
      }
    }
    for (; k < count; ++k) step(a + k * unit<F>::parts);
  }
}

/// What a tile's sums, rows of them `stride` apart, begin at.
enum class sink {
  fresh,  // they begin at 0
  go_on,  // they begin where they were
};
template <format F, int Rows>
void tile(float const* a, std::int64_t block, std::int64_t units, float const* panel, sink to,
          float* sums, std::int64_t stride, ahead const& next) {
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[r][j] = to == sink::go_on ? load(sums + r * stride + j * lanes) : vec{};
  }
  add_tile<F, Rows>(a, block, units, panel, sum, next);
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * stride + j * lanes, sum[r][j]);
  }
}
template <format F>
void tile(int rows, float const* a, std::int64_t block, std::int64_t units, float const* panel,
          sink to, float* sums, std::int64_t stride, ahead const& next) {
  using function = void (*)(float const*, std::int64_t, std::int64_t, float const*, sink, float*,
                            std::int64_t, ahead const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{tile<F, R + 1>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, block, units, panel, to, sums, stride, next);
}

/// What the sums of a row's blocks that share a scale start at, where that is not 0.
template <format F>
FINEGRAIN_INLINE auto starts_of(auto* row) {
  return row + depth * unit<F>::parts;
}

/// sums += a . panel, of up to `depth` units, block by block of `together` units: a block's sums, times
/// its scales, are added.
template <format F, int Rows>
void scaled_tile(float const* a, std::int64_t units, std::int64_t together, float const* panel,
                 float const* scales, float* sums, ahead const& next) {
  [[maybe_unused]] float const* start = starts_of<F>(a);
  for (std::int64_t k = 0; k < units; scales += panel_width) {
    vec sum[Rows][vectors];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j)
        if constexpr (requires { unit<F>::starting; })
          sum[r][j] = broadcast(start[r * left_stride<F>]);
        else
          sum[r][j] = vec{};
    }
    ++start;
    for (std::int64_t const end = std::min(units, k + together); k < end;) {
      next.fetch(k);
      for (std::int64_t const stop = std::min(end, k + line); k < stop; ++k) {
        add_unit<F, Rows>(a, panel, sum);
        a += unit<F>::parts;
        panel += panel_width;
      }
    }
    vec const s0 = load(scales), s1 = load(scales + lanes);
    float* to = sums;
    asm("" : "+r"(to));  // or compilers keep totals in registers that are not there
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec t0 = load(to + r * panel_width), t1 = load(to + r * panel_width + lanes);
      add_product(sum[r][0], s0, t0);
      add_product(sum[r][1], s1, t1);
      store(to + r * panel_width, t0);
      store(to + r * panel_width + lanes, t1);
    }
  }
}

template <format F>
void scaled_tile(int rows, float const* a, std::int64_t units, std::int64_t together,
                 float const* panel, float const* scales, float* sums, ahead const& next) {
  using function = void (*)(float const*, std::int64_t, std::int64_t, float const*, float const*,
                            float*, ahead const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{scaled_tile<F, R + 1>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, units, together, panel, scales, sums, next);
}

/// f(top, height, t, tiles) for tiles of nearly equal height.
template <class Function>
void each_tile(int rows, Function&& f) {
  int const count = (rows + tile_rows - 1) / tile_rows;
  for (int t = 0; t < count; ++t) {
    int const top = rows * t / count;
    f(top, rows * (t + 1) / count - top, t, count);
  }
}

/// Tiles over `rows` rows of A, block by block as tile reads them. next(t, tiles) is what a tile is to
/// fetch meanwhile.
template <format F, class Next>
void tiles(int rows, float const* a, std::int64_t block, std::int64_t units, float const* panel,
           sink to, float* sums, std::int64_t stride, Next&& next) {
  each_tile(rows, [&](int top, int height, int t, int count) {
    tile<F>(height, a + top * left_stride<F>, block, units, panel, to, sums + top * stride, stride,
            next(t, count));
  });
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
