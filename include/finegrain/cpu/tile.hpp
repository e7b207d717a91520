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

/// sum += a . panel, of one unit of k. A's rows are Stride apart, and a unit's parts Part.
template <format F, int Stride, int Rows, int Part = 1>
FINEGRAIN_INLINE void add_unit(float const* a, float const* panel, vec (&sum)[Rows][vectors]) {
  FINEGRAIN_UNROLL
  for (int i = 0; i < unit<F>::parts; ++i) {
    if (i > 0) asm("" : "+r"(panel));  // or compilers keep units in registers, and sums in memory
    vec const b0 = unit<F>::part(load(panel), i), b1 = unit<F>::part(load(panel + lanes), i);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(a[r * Stride + i * Part]);
      unit<F>::multiply_add(x, b0, sum[r][0]);
      unit<F>::multiply_add(x, b1, sum[r][1]);
    }
  }
}
/// The same of a stretch of `count` units, with what is fetched meanwhile.
template <format F, int Stride, int Rows>
FINEGRAIN_INLINE void add_stretch(float const*& a, std::int64_t count, float const*& panel,
                                  vec (&sum)[Rows][vectors], flow& next) {
  auto const step = [&]() __attribute__((always_inline)) {
    next.fetch();
    add_unit<F, Stride, Rows>(a, panel, sum);
    a += unit<F>::parts;
    panel += panel_width;
  };
  for (; count >= together; count -= together) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < together; ++j) step();
  }
  for (; count > 0; --count) step();
}
FINEGRAIN_INLINE flow flow_of(flow next, float const* panel) {  // or a line that is there already
  return next.at ? next : flow{reinterpret_cast<std::byte const*>(panel), 0};
}

/// sum += a . panel, over `units` units of k. Of `a`, blocks of `depth` units stand `block` apart, in
/// each the rows, Stride apart. Next is what is fetched meanwhile: `flow` or `ahead`.
template <format F, int Stride, int Rows>
FINEGRAIN_INLINE void add_tile(float const* a, std::int64_t block, std::int64_t units,
                               float const* panel, vec (&sum)[Rows][vectors], flow const& next) {
  flow fetched = flow_of(next, panel);
  for (; units > 0; units -= depth, a += block) {
    float const* row = a;
    add_stretch<F, Stride, Rows>(row, std::min<std::int64_t>(depth, units), panel, sum, fetched);
  }
}
template <format F, int Stride, int Rows>
FINEGRAIN_INLINE void add_tile(float const* a, std::int64_t block, std::int64_t units,
                               float const* panel, vec (&sum)[Rows][vectors], ahead const& next) {
  auto step = [&](float const* from) __attribute__((always_inline)) {
    add_unit<F, Stride, Rows>(from, panel, sum);
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
template <format F, int Stride, int Rows, class Next>
void tile(float const* a, std::int64_t block, std::int64_t units, float const* panel, sink to,
          float* sums, std::int64_t stride, Next const& next) {
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[r][j] = to == sink::go_on ? load(sums + r * stride + j * lanes) : vec{};
  }
  add_tile<F, Stride, Rows>(a, block, units, panel, sum, next);
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * stride + j * lanes, sum[r][j]);
  }
}
template <format F, class Next = ahead, int Stride = left_stride<F>>
void tile(int rows, float const* a, std::int64_t block, std::int64_t units, float const* panel,
          sink to, float* sums, std::int64_t stride, Next const& next) {
  using function = void (*)(float const*, std::int64_t, std::int64_t, float const*, sink, float*,
                            std::int64_t, Next const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{tile<F, Stride, R + 1, Next>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, block, units, panel, to, sums, stride, next);
}

/// What the sums of a row's blocks that share a scale start at, where that is not 0.
template <format F>
FINEGRAIN_INLINE auto starts_of(auto* row) {
  return row + depth * unit<F>::parts;
}

/// sums += a . panel, of up to `depth` units, block by block of `block` units: a block's sums, times
/// its scales, are added. They begin at 0, or at a row's `starts`, one for each block. A's rows are as
/// P's are kept.
template <format F, format P, int Rows>
void scaled_tile(float const* a, [[maybe_unused]] float const* starts, std::int64_t units,
                 std::int64_t block, float const* panel, float const* scales, float* sums,
                 flow const& next) {
  flow fetched = flow_of(next, panel);
  for (; units > 0; units -= block, scales += panel_width) {
    vec sum[Rows][vectors];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j)
        if constexpr (requires { unit<P>::starting; })
          sum[r][j] = broadcast(starts[r * left_stride<P>]);
        else
          sum[r][j] = vec{};
    }
    ++starts;
    add_stretch<F, left_stride<P>, Rows>(a, std::min(units, block), panel, sum, fetched);
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

template <format F, format P>
void scaled_tile(int rows, float const* a, float const* starts, std::int64_t units,
                 std::int64_t block, float const* panel, float const* scales, float* sums,
                 flow const& next) {
  using function = void (*)(float const*, float const*, std::int64_t, std::int64_t, float const*,
                            float const*, float*, flow const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{scaled_tile<F, P, R + 1>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, starts, units, block, panel, scales, sums, next);
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
