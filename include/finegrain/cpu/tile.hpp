// tile: a few rows of A times a panel of B, in registers. All products are made of it.
//
// Tiles of up to 14 rows (6 where there are 16 registers) run over a panel of two vectors' columns,
// k by k; A lies in strips (strips.hpp), unit by unit, or row by row. Each sum is one chain over
// k = 0, 1, 2, ..., whatever the tile, its neighbours or the number of rows: that is why a token's
// result does not depend on its batch. Tiles in registers for matrices are in amx_tile.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "amx_integers.hpp"
#include "integers.hpp"
#include "operands.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// How a tile's rows of A stand: of each part of k side by side, which is a strip; or, so many numbers
/// apart, each from end to end.
inline constexpr int in_strips = 0;

/// sum += a . panel, of one unit of k, of some rows; a strip has `Height`.
template <format F, int Apart, int Height, int Rows>
FINEGRAIN_INLINE void add_unit(float const* a, float const* panel, vec (&sum)[Rows][vectors]) {
  constexpr int row = Apart == in_strips ? 1 : Apart, part = Apart == in_strips ? Height : 1;
  FINEGRAIN_UNROLL
  for (int i = 0; i < unit<F>::parts; ++i) {
    if (i > 0) asm("" : "+r"(panel));  // or compilers keep units in registers, and sums in memory
    vec const b0 = unit<F>::part(load(panel), i), b1 = unit<F>::part(load(panel + lanes), i);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = every_lane<F>(a[r * row + i * part]);
      unit<F>::multiply_add(x, b0, sum[r][0]);
      unit<F>::multiply_add(x, b1, sum[r][1]);
    }
  }
}
/// The same of some units, behind which both operands then stand.
template <format F, int Apart, int Height, int Rows, class Meanwhile>
FINEGRAIN_INLINE void add_stretch(float const*& a, std::int64_t units, float const*& panel,
                                  vec (&sum)[Rows][vectors], Meanwhile& meanwhile) {
  auto const step = [&]() __attribute__((always_inline)) {
    add_unit<F, Apart, Height>(a, panel, sum);
    a += Apart == in_strips ? Height * unit<F>::parts : unit<F>::parts;
    panel += panel_width;
  };
  static_assert(together % Meanwhile::every == 0);
  constexpr bool has_also = requires { meanwhile.also; };
  auto const go_on = [&](std::int64_t behind) __attribute__((always_inline)) {
    for (; units >= behind + together; units -= together) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < together; ++j) {
        if (j % Meanwhile::every == 0) meanwhile.fetch();
        step();
      }
    }
  };
  if constexpr (has_also)
    while (units >= line) {
      meanwhile.also.some();
      go_on(units - line);
    }
  go_on(0);
  for (; units > 0; --units) step();
  if constexpr (has_also) meanwhile.also.rest();
}

/// f(next) with what fetches so many bytes, or nothing, while each of some tiles goes through `units`
/// units of k. What one tile reads it waits for, and then machines fetch further by themselves.
template <format F, class Function>
FINEGRAIN_INLINE void fetching(std::byte const* at, std::int64_t bytes, int tiles,
                               std::int64_t units, Function&& f) {
  units *= tiles;
  if constexpr (in_matrices<F>) {
    int const ways = tiles > 1 ? 8 : 1;
    std::int64_t const lines = ways * streams::line_bytes;
    f(streams{at, ceil_div(bytes * streams::every, units), ways, bytes / lines * lines / ways});
  } else {
    constexpr std::int64_t fetched = 4 * std::max<std::int64_t>(panel_width, line);  // bytes at a time
    auto const pace = [&](int every) { return ceil_div(bytes * every, units); };
    if (pace(together) > fetched)
      f(flow<1>{at, pace(1)});
    else
      f(flow<together>{at, pace(together)});
  }
}

/// What a caller wants done (`ahead`, `ahead_and_moving`, `only_leaving`) while its tile t runs. It refers to the
/// caller's function, so that tiles are compiled once and not for every caller.
template <class Next>
class wishes {
 public:
  template <class Function>
  explicit wishes(Function const& f)
      : of_(&f),
        ask_([](void const* of, int t) -> Next { return (*static_cast<Function const*>(of))(t); }) {
  }
  Next operator()(int t) const { return ask_(of_, t); }

 private:
  void const* of_;
  Next (*ask_)(void const*, int);
};

/// `count` tiles one after the other, each sums = or += a . panel; rows of sums are `stride` apart.
/// Next is what is to be done meanwhile: wishes, or one flow for them all.
template <format F, int Apart, int Rows, class Next>
void run_tiles(float const* a, std::int64_t units, float const* panel, sink to, float* sums,
               std::int64_t stride, tile_step step, int count, Next& next) {
  for (int t = 0; t < count; ++t) {
    float const *from = a, *b = panel;
    auto meanwhile = [&] {  // asked before there are sums: a call would put them in memory
      if constexpr (Flow<Next>)
        return next;  // a copy, in registers
      else
        return next(t);
    }();
    vec sum[Rows][vectors];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j)
        sum[r][j] = to == sink::go_on ? load(sums + r * stride + j * lanes) : vec{};
    }
    add_stretch<F, Apart, Rows>(from, units, b, sum, meanwhile);
    if constexpr (Flow<Next>) next = meanwhile;
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) store(sums + r * stride + j * lanes, sum[r][j]);
    }
    a += step.rows;
    panel += step.panel;
    sums += step.sums;
  }
}
template <format F, int Apart = in_strips, class Next>
void run_tiles(int rows, float const* a, std::int64_t units, float const* panel, sink to,
               float* sums, std::int64_t stride, tile_step step, int count, Next& next) {
  if constexpr (unit<F>::deep > 1) {
    run_matrix_tiles(rows, a, units, panel, to, sums, stride, step, count, next);
  } else {
    using function = void (*)(float const*, std::int64_t, float const*, sink, float*, std::int64_t,
                              tile_step, int, Next&);
    static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
      return std::array<function, tile_rows>{run_tiles<F, Apart, R + 1, Next>...};
    }
    (std::make_integer_sequence<int, tile_rows>());
    height[static_cast<std::size_t>(rows - 1)](a, units, panel, to, sums, stride, step, count,
                                               next);
  }
}

/// sums(panel, row, column) = or += a strip of so few rows . panels that stand `distance` numbers apart.
template <format F, int Rows, int Panels>
void tile_abreast(float const* strip, std::int64_t units, float const* panel, std::int64_t distance,
                  sink to, float* sums) {
  constexpr int width = Panels * vectors;
  auto const place = [](int r, int j) {
    return (j / vectors * Rows + r) * panel_width + j % vectors * lanes;
  };
  vec sum[Rows][width];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j)
      sum[r][j] = to == sink::go_on ? load(sums + place(r, j)) : vec{};
  }
  for (; units > 0; --units, panel += panel_width) {
    FINEGRAIN_UNROLL
    for (int i = 0; i < unit<F>::parts; ++i, strip += Rows) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) {
        vec const b = load(panel + j / vectors * distance + j % vectors * lanes);
        FINEGRAIN_UNROLL
        for (int r = 0; r < Rows; ++r)
          unit<F>::multiply_add(broadcast(strip[r]), unit<F>::part(b, i), sum[r][j]);
      }
    }
  }
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) store(sums + place(r, j), sum[r][j]);
  }
}

/// sums += strip . panel, of some of a strip's rows, block by block of `block` units: a block's sums, times
/// its scales if there are any, are added. They begin at 0, or at what blocks of the rows have for it, one
/// row's after the other.
template <format F, format P, int Height, int Rows, class Next>
FINEGRAIN_INLINE void add_scaled_blocks(float const* strip, [[maybe_unused]] float const* blocks,
                                        std::int64_t units, std::int64_t block, float const* panel,
                                        float const* scales, float* sums, Next& next) {
  constexpr bool held = totals_are_held<F>(Rows * vectors);
  asm("" : "+r"(sums));  // or compilers keep totals in registers that are not there
  [[maybe_unused]] vec totals[Rows][vectors];
  auto const each = [&](auto const& f) __attribute__((always_inline)) {
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) f(r, j, sums + r * panel_width + j * lanes);
    }
  };
  if constexpr (held)
    each([&](int r, int j, float* at) __attribute__((always_inline)) { totals[r][j] = load(at); });
  for (; units > 0; units -= block) {
    vec sum[Rows][vectors];
    each([&](int r, int j, float*) __attribute__((always_inline)) {
      sum[r][j] = Integers<P> ? every_lane<F>(blocks[r]) : vec{};
    });
    add_stretch<F, in_strips, Height>(strip, std::min(units, block), panel, sum, next);
    vec by[vectors] = {vec{} + 1.0f, vec{} + 1.0f};
    if (scales) by[0] = load(scales), by[1] = load(scales + lanes), scales += panel_width;
    if constexpr (!held) asm("" : "+r"(sums));
    each([&](int r, int j, float* at) __attribute__((always_inline)) {
      vec total = held ? totals[r][j] : load(at);
      if constexpr (Integers<F>)
        unit<F>::add_scaled(sum[r][j], blocks[Height + r], by[j], total);
      else
        add_product(sum[r][j], by[j], total);
      if constexpr (held)
        totals[r][j] = total;
      else
        store(at, total);
    });
    if constexpr (Integers<P>) blocks += unit<P>::block_floats * Height;
  }
  if constexpr (held)
    each([&](int r, int j, float* at) __attribute__((always_inline)) { store(at, totals[r][j]); });
}

/// The same of all rows.
template <format F, format P, int Rows, Flow Next>
void scaled_tile(float const* strip, [[maybe_unused]] float const* blocks, std::int64_t units,
                 std::int64_t block, float const* panel, float const* scales, float* sums,
                 Next& next) {
  constexpr int first = rows_in_turn<F>(Rows);
  Next mine = next;
  if constexpr (first == Rows) {
    add_scaled_blocks<F, P, Rows, Rows>(strip, blocks, units, block, panel, scales, sums, mine);
  } else {
    constexpr std::int64_t turn = unit<F>::turn_blocks;
    for (; units > 0; units -= turn * block) {
      auto const add = [&]<int Some>(int row, auto& meanwhile) __attribute__((always_inline)) {
        add_scaled_blocks<F, P, Rows, Some>(strip + row, blocks + row,
                                            std::min(units, turn * block), block, panel, scales,
                                            sums + row * panel_width, meanwhile);
      };
      no_fetching none;
      add.template operator()<first>(0, mine);
      add.template operator()<Rows - first>(first, none);
      strip += turn * block * Rows;
      panel += turn * block * panel_width;
      blocks += turn * unit<F>::block_floats * Rows;
      if (scales) scales += turn * panel_width;
    }
  }
  next = mine;
}
/// `count` of them one after the other.
template <format F, format P, Flow Next>
void scaled_tiles(int rows, float const* strip, float const* blocks, std::int64_t units,
                  std::int64_t block, float const* panel, float const* scales, float* sums,
                  tile_step step, int count, Next& next) {
  auto const each = [&](auto const& run) {
    for (; count > 0; --count, strip += step.rows, blocks += step.rows, sums += step.sums)
      run(strip, blocks, units, block, panel, scales, sums, next);
  };
  if constexpr (in_matrices<F>) {
    each(scaled_matrix_tile<F>(rows));
  } else {
    using function = void (*)(float const*, float const*, std::int64_t, std::int64_t, float const*,
                              float const*, float*, Next&);
    static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
      return std::array<function, tile_rows>{scaled_tile<F, P, R + 1, Next>...};
    }
    (std::make_integer_sequence<int, tile_rows>());
    each(height[static_cast<std::size_t>(rows - 1)]);
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
