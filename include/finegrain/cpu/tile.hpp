// tile: a few rows of A times a panel of B, in registers. All products are made of it.
//
// Tiles of up to 14 rows (6 where there are 16 registers) run over a panel of two vectors' columns,
// or of up to 6 rows over two panels, k by k; A lies in strips (strips.hpp), unit by unit, or row by
// row. Each sum is one chain over k = 0, 1, 2, ..., whatever the tile, its neighbours or the number of
// rows: that is why a token's result does not depend on its batch. Tiles in registers for matrices are
// in amx_tile.hpp.
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

/// How a tile's rows of A stand: each from end to end, so many numbers apart; or in a strip, which has the
/// rows side by side for each part of k.
inline constexpr int in_strips = 0;

/// sum += a . panel, of one unit of k, of some rows; a strip has `Height`.
template <format F, int Apart, int Height, int Rows, int Width>
FINEGRAIN_INLINE void add_unit(float const* a, float const* panel,
                               [[maybe_unused]] std::int64_t apart, vec (&sum)[Rows][Width]) {
  constexpr int row = Apart == in_strips ? 1 : Apart, part = Apart == in_strips ? Height : 1;
  FINEGRAIN_UNROLL
  for (int i = 0; i < unit<F>::parts; ++i) {
    if (i > 0) asm("" : "+r"(panel));  // or compilers keep units in registers, and sums in memory
    vec b[Width];
    FINEGRAIN_UNROLL
    for (int j = 0; j < Width; ++j)
      b[j] = unit<F>::part(load(panel + j / vectors * apart + j % vectors * lanes), i);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = every_lane<F>(a[r * row + i * part]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < Width; ++j) unit<F>::multiply_add(x, b[j], sum[r][j]);
    }
  }
}
/// The same of some units, behind which both operands then stand.
template <format F, int Apart, int Height, int Rows, int Width, class Meanwhile>
FINEGRAIN_INLINE void add_stretch(float const*& a, std::int64_t units, float const*& panel,
                                  std::int64_t apart, vec (&sum)[Rows][Width],
                                  Meanwhile& meanwhile) {
  auto const step = [&]() __attribute__((always_inline)) {
    add_unit<F, Apart, Height>(a, panel, apart, sum);
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

/// f(next) with what fetches so many bytes of each of `count` panels, `apart` bytes from one another, while
/// each of some tiles goes through `units` units of k. Where registers for matrices have one tile alone, that
/// waits for what it reads, and machines then fetch further by themselves: one way is enough.
template <format F, class Function>
FINEGRAIN_INLINE void fetching(std::byte const* at, std::int64_t bytes, int count,
                               std::int64_t apart, int tiles, std::int64_t units, Function&& f) {
  units *= tiles;
  if constexpr (in_matrices<F>) {
    int const ways = tiles > 1 ? 8 : 1;
    std::int64_t const lines = ways * streams::line_bytes;
    f(streams{at, ceil_div(bytes * streams::every, units), ways, bytes / lines * lines / ways});
  } else {
    constexpr std::int64_t fetched =
        4 * std::max<std::int64_t>(panel_width, line);  // bytes at a time
    auto const pace = [&](int every) { return ceil_div(bytes * every, units); };
    auto const go = [&]<int Every>(flow<Every> next) {
      if constexpr (scarce_loads) {
        static_assert(flow<Every>::lines == 2);
        if (count > 1) next.apart = apart;
      }
      f(next);
    };
    if (count * pace(together) > fetched)
      go(flow<1>(at, pace(1)));
    else
      go(flow<together>(at, pace(together)));
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

/// What tiles have in common: how rows of A stand (`apart`); how many there may be (`height`), and how many
/// of them a tile takes (`rows`); and how many panels, side by side.
struct tile_form {
  int apart = in_strips, height = tile_rows, rows = tile_rows, panels = 1;
};
template <format F>
inline constexpr tile_form strip_form = {in_strips, strip_rows<F>, tile_height<F>, tile_panels<F>};

/// `count` products one after the other, each sums = or += a . panels, of a tile or of two; rows of sums are
/// `stride` apart. Next is what is to be done meanwhile: wishes of each tile, or one flow for them all.
template <format F, tile_form Form, int Height, class Next>
void run_tiles(float const* a, std::int64_t units, panels_abreast panels, sink to, float* sums,
               std::int64_t stride, tile_step step, int count, Next& next) {
  static_assert(Form.apart == in_strips || Height <= Form.rows);
  constexpr int width = Form.panels * vectors;
  auto const tile = [&]<int Rows>(int t, int top) __attribute__((always_inline)) {
    float const *from = a + top, *b = panels.first;
    auto const place = [&](int r, int j) __attribute__((always_inline)) {
      return sums + j / vectors * panels.sums_apart + (top + r) * stride + j % vectors * lanes;
    };
    auto meanwhile = [&] {  // asked before there are sums: a call would put them in memory
      if constexpr (Flow<Next>)
        return next;  // a copy, in registers
      else
        return next(t);
    }();
    vec sum[Rows][width];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) sum[r][j] = to == sink::go_on ? load(place(r, j)) : vec{};
    }
    add_stretch<F, Form.apart, Height>(from, units, b, panels.apart, sum, meanwhile);
    if constexpr (Flow<Next>) next = meanwhile;
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) store(place(r, j), sum[r][j]);
    }
  };
  for (int t = 0; t < count; ++t) {
    if constexpr (Height > Form.rows) {
      constexpr int first = (Height + 1) / 2;
      tile.template operator()<first>(2 * t, 0);
      tile.template operator()<Height - first>(2 * t + 1, first);
    } else {
      tile.template operator()<Height>(t, 0);
    }
    a += step.rows;
    panels.first += step.panel;
    sums += step.sums;
  }
}
/// The same of so many rows, and of as many panels as tiles take or of one.
template <format F, tile_form Form, class Next>
void run_tiles(int rows, float const* a, std::int64_t units, panels_abreast panels, sink to,
               float* sums, std::int64_t stride, tile_step step, int count, Next& next) {
  if constexpr (unit<F>::deep > 1) {
    run_matrix_tiles(rows, a, units, panels.first, to, sums, stride, step, count, next);
  } else {
    using function = void (*)(float const*, std::int64_t, panels_abreast, sink, float*,
                              std::int64_t, tile_step, int, Next&);
    static constexpr auto of_height = []<int... R>(std::integer_sequence<int, R...>) {
      return std::array<function, Form.height>{run_tiles<F, Form, R + 1, Next>...};
    }
    (std::make_integer_sequence<int, Form.height>());
    if constexpr (Form.panels > 1)
      if (panels.count == 1)
        return run_tiles<F, tile_form{Form.apart, Form.height, Form.rows}>(
            rows, a, units, panels, to, sums, stride, step, count, next);
    of_height[static_cast<std::size_t>(rows - 1)](a, units, panels, to, sums, stride, step, count,
                                                  next);
  }
}

/// sums += strip . panel, of some of a strip's rows, block by block of `block` units: a block's sums, times
/// its scales if there are any, are added. They begin at 0, or at what blocks of the rows have for it, one
/// row's after the other.
template <format F, format P, int Height, int Rows, int Panels, class Next>
FINEGRAIN_INLINE void add_scaled_blocks(float const* strip, [[maybe_unused]] float const* blocks,
                                        std::int64_t units, std::int64_t block,
                                        panels_abreast panels, float* sums, Next& next) {
  constexpr int width = Panels * vectors;
  constexpr bool held = totals_are_held<F>(Rows * width);
  float* to[Panels];
  for (int p = 0; p < Panels; ++p) to[p] = sums + p * panels.sums_apart;
  // or compilers keep totals in registers that are not there, and an address of each in memory
  auto const forget = [&]() __attribute__((always_inline)) {
    FINEGRAIN_UNROLL
    for (int p = 0; p < Panels; ++p) asm("" : "+r"(to[p]));
  };
  auto const place = [&](int r, int j) __attribute__((always_inline)) {
    return to[j / vectors] + r * panel_width + j % vectors * lanes;
  };
  auto const each = [&](auto const& f) __attribute__((always_inline)) {
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) f(r, j);
    }
  };
  forget();
  [[maybe_unused]] vec totals[Rows][width];
  if constexpr (held)
    each([&](int r, int j) __attribute__((always_inline)) { totals[r][j] = load(place(r, j)); });
  for (; units > 0; units -= block) {
    vec sum[Rows][width];
    each([&](int r, int j) __attribute__((always_inline)) {
      if constexpr (Integers<P>)
        sum[r][j] = every_lane<F>(blocks[unit<P>::whole_at * Height + r]);
      else
        sum[r][j] = vec{};
    });
    add_stretch<F, in_strips, Height>(strip, std::min(units, block), panels.first, panels.apart,
                                      sum, next);
    vec by[width];
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j)
      by[j] = panels.scales
                  ? load(panels.scales + j / vectors * panels.scales_apart + j % vectors * lanes)
                  : vec{} + 1.0f;
    if (panels.scales) panels.scales += panel_width;
    if constexpr (!held) forget();
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      // read once: for all that compilers know, totals are stored in its place
      [[maybe_unused]] vec scale;
      if constexpr (Integers<F>) scale = broadcast(blocks[unit<F>::scale_at * Height + r]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) {
        vec total = held ? totals[r][j] : load(place(r, j));
        if constexpr (Integers<F>)
          unit<F>::add_scaled(sum[r][j], scale, by[j], total);
        else
          add_product(sum[r][j], by[j], total);
        if constexpr (held)
          totals[r][j] = total;
        else
          store(place(r, j), total);
      }
    }
    if constexpr (Integers<P>) blocks += unit<P>::block_floats * Height;
  }
  if constexpr (held)
    each([&](int r, int j) __attribute__((always_inline)) { store(place(r, j), totals[r][j]); });
}

/// The same of all rows: of two tiles one after the other, or in turns.
template <format F, format P, int Panels, int Height, Flow Next>
void scaled_tile(float const* strip, [[maybe_unused]] float const* blocks, std::int64_t units,
                 std::int64_t block, panels_abreast panels, float* sums, Next& next) {
  Next mine = next;
  auto const add = [&]<int Rows>(int row, std::int64_t some, auto& meanwhile)
      __attribute__((always_inline)) {
    add_scaled_blocks<F, P, Height, Rows, Panels>(strip + row, blocks + row, some, block, panels,
                                                  sums + row * panel_width, meanwhile);
  };
  if constexpr (Height > tile_height<P>) {
    constexpr int first = (Height + 1) / 2;
    add.template operator()<first>(0, units, mine);
    add.template operator()<Height - first>(first, units, mine);
  } else if constexpr (constexpr int first = rows_in_turn<F>(Height, false); first < Height) {
    constexpr std::int64_t turn = unit<F>::turn_blocks;
    for (; units > 0; units -= turn * block) {
      std::int64_t const some = std::min(units, turn * block);
      no_fetching none;
      add.template operator()<first>(0, some, mine);
      add.template operator()<Height - first>(first, some, none);
      strip += turn * block * Height;
      panels.first += turn * block * panel_width;
      blocks += turn * unit<F>::block_floats * Height;
      if (panels.scales) panels.scales += turn * panel_width;
    }
  } else {
    add.template operator()<Height>(0, units, mine);
  }
  next = mine;
}
/// `count` of them one after the other.
template <format F, format P, Flow Next>
void scaled_tiles(int rows, float const* strip, float const* blocks, std::int64_t units,
                  std::int64_t block, panels_abreast panels, float* sums, tile_step step, int count,
                  Next& next) {
  auto const each = [&](auto const& run) {
    for (; count > 0; --count, strip += step.rows, blocks += step.rows, sums += step.sums)
      run(strip, blocks, units, block, panels, sums, next);
  };
  if constexpr (in_matrices<F>) {
    each(scaled_matrix_tile<F>(rows));
  } else {
    using function = void (*)(float const*, float const*, std::int64_t, std::int64_t,
                              panels_abreast, float*, Next&);
    auto const run = [&]<int Panels>() {
      static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
        return std::array<function, strip_rows<P>>{scaled_tile<F, P, Panels, R + 1, Next>...};
      }
      (std::make_integer_sequence<int, strip_rows<P>>());
      each(height[static_cast<std::size_t>(rows - 1)]);
    };
    if constexpr (1 < tile_panels<P>)
      if (panels.count > 1) return run.template operator()<tile_panels<P>>();
    run.template operator()<1>();
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
