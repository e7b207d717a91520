// amx_tile: tiles of up to 32 rows of A and a panel of B, in registers for matrices.
//
// Of eight registers four hold the tile's sums, and four pass the operands, 16 units of k at a
// time:
//
//                        panel, 2 x 16 columns
//                            6     7
//     strip, 16 rows   4     0     1
//            16 rows   5     2     3
//
// Sums of 16 units begin at 0 and are added to the tile's, whatever its rows. Tiles of integers are
// in amx_integers.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "amx.hpp"
#include "meanwhile.hpp"
#include "room.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// As scaled_tile, of a format in registers for matrices: made for so many rows, then called for
/// each strip.
template <format F>
struct scaled_matrix_tile;

#if defined(FINEGRAIN_HAS_AMX)

/// The registers of a tile, which are configured as long as it lives.
struct amx_tile {
  static constexpr int high = 16;                                 // rows of a register
  static constexpr std::int64_t row_bytes = lanes * 4;            // of each
  static constexpr std::int64_t deep = unit<format::bf16>::deep;  // units of k at a time
  static_assert(strip_rows<format::bf16> == 2 * high && panel_width == 2 * lanes && lanes == 16);

  static constexpr auto shapes = [] {
    std::array<amx::shape, 2 * high + 1> all;
    for (int rows = 0; rows <= 2 * high; ++rows) {
      int const above = std::min(rows, high), below = rows - above;
      int const heights[] = {above, above, below, below, above, below, high, high};
      amx::shape& shape = all[static_cast<std::size_t>(rows)];
      for (int i = 0; i < 8; ++i) {
        shape.rows[i] = static_cast<std::uint8_t>(heights[i]);
        shape.bytes[i] = heights[i] > 0 ? row_bytes : 0;
      }
    }
    return all;
  }();

  int rows;

  explicit amx_tile(int rows) : rows(rows) {
    require_matrix_registers();  // whoever calls a product alone has not asked
    amx::begin(shapes[static_cast<std::size_t>(rows)]);
  }
  ~amx_tile() { amx::end(); }
  amx_tile(amx_tile const&) = delete;

  /// Whether there are rows below, in registers 5, 2 and 3.
  bool both() const { return rows > high; }

  /// What each register of sums does before a tile's first products: the last tile's leave, and
  /// this tile's are there. One after the other, while others are added to: all at once, products
  /// wait.
  struct handover {
    float* last;         // where the last tile's go, if there was one
    float const* begin;  // what this tile's begin at; null: at 0
    std::int64_t stride;

    template <int R>
    FINEGRAIN_INLINE void operator()(std::integral_constant<int, R>) const {
      if (last) store<R>(last, stride);
      if (begin)
        amx::load<R>(begin + place<R>(stride), stride * 4);
      else
        amx::zero<R>();
    }
  };
  /// The sums of the last tile.
  FINEGRAIN_INLINE void finish(float* sums, std::int64_t stride) const {
    both() ? finish<true>(sums, stride) : finish<false>(sums, stride);
  }
  template <bool Both>
  FINEGRAIN_INLINE static void finish(float* sums, std::int64_t stride) {
    store<0>(sums, stride), store<1>(sums, stride);
    if constexpr (Both) store<2>(sums, stride), store<3>(sums, stride);
  }

  /// sums += a . panel of some units, a multiple of 16 but not 0. Behind them a stands then.
  template <class Meanwhile>
  FINEGRAIN_INLINE void add(handover const& first, float const*& a, std::int64_t units,
                            float const* panel, Meanwhile& meanwhile) const {
    both() ? add<true>(first, a, units, panel, meanwhile)
           : add<false>(first, a, units, panel, meanwhile);
    if constexpr (requires { meanwhile.also; }) meanwhile.also.rest();
  }

 private:
  /// Where register R of sums has its first, rows `stride` apart.
  template <int R>
  static constexpr std::int64_t place(std::int64_t stride) {
    return R / 2 * high * stride + R % 2 * lanes;
  }
  template <int R>
  FINEGRAIN_INLINE static void store(float* sums, std::int64_t stride) {
    amx::store<R>(sums + place<R>(stride), stride * 4);
  }

  template <bool Both, class Meanwhile>
  FINEGRAIN_INLINE void add(handover const& first, float const*& a, std::int64_t units,
                            float const* panel, Meanwhile& meanwhile) const {
    auto const step = [&](auto const& before) __attribute__((always_inline)) {
      for (int i = 0; i < deep; i += Meanwhile::every) meanwhile.fetch();
      if constexpr (requires { meanwhile.also; }) meanwhile.also.some();
      amx::load<6>(panel, 2 * row_bytes);
      amx::load_once<4>(a, row_bytes);
      before(std::integral_constant<int, 0>{});
      amx::add_product<0, 4, 6>();
      amx::load<7>(panel + lanes, 2 * row_bytes);
      before(std::integral_constant<int, 1>{});
      amx::add_product<1, 4, 7>();
      if constexpr (Both) {
        amx::load_once<5>(a + high * lanes, row_bytes);
        before(std::integral_constant<int, 2>{});
        amx::add_product<2, 5, 6>();
        before(std::integral_constant<int, 3>{});
        amx::add_product<3, 5, 7>();
      }
      a += rows * deep;
      panel += deep * panel_width;
    };
    step(first);
    for (std::int64_t k = deep; k < units; k += deep) step([](auto) {});
  }
};

/// As run_tiles.
template <class Next>
void run_matrix_tiles(int rows, float const* a, std::int64_t units, float const* panel, sink to,
                      float* sums, std::int64_t stride, tile_step step, int count, Next& next) {
  amx_tile const tile(rows);
  float* last = nullptr;
  for (int t = 0; t < count; ++t, a += step.rows, panel += step.panel, sums += step.sums) {
    float const* from = a;
    amx_tile::handover const first{last, to == sink::go_on ? sums : nullptr, stride};
    if constexpr (Flow<Next>) {
      tile.add(first, from, units, panel, next);
    } else {
      auto meanwhile = next(t);
      tile.add(first, from, units, panel, meanwhile);
    }
    last = sums;
  }
  tile.finish(last, stride);
}

/// A block's sums are scaled while the next is multiplied.
template <>
struct scaled_matrix_tile<format::bf16> : amx_tile {
  using amx_tile::amx_tile;

  template <Flow Next>
  void operator()(float const* strip, float const*, std::int64_t units, std::int64_t block,
                  panels_abreast const& panels, float* sums, Next& next) const {
    float const *panel = panels.first, *scales = panels.scales;
    alignas(64) float room[2][2 * high * panel_width];
    float *mine = room[0], *last = nullptr;
    auto const scale = [&](float const* block_sums) {
      for (int j = 0; j < vectors; ++j) {
        vec const by = simd::load(scales + j * lanes);
        for (int r = 0; r < rows; ++r) {
          float* const to = sums + r * panel_width + j * lanes;
          vec total = simd::load(to);
          simd::add_product(simd::load(block_sums + r * panel_width + j * lanes), by, total);
          simd::store(to, total);
        }
      }
      scales += panel_width;
    };
    for (; units > 0; units -= block, panel += block * panel_width) {
      add({last, nullptr, panel_width}, strip, std::min(units, block), panel, next);
      if (last) scale(last);
      last = std::exchange(mine, mine == room[0] ? room[1] : room[0]);
    }
    finish(last, panel_width);
    scale(last);
  }
};

#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
