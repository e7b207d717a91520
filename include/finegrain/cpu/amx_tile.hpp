// amx_tile: tiles of up to 32 rows of A and a panel of B, in registers for matrices.
//
// Four registers hold a tile's sums, two of rows above one another, two of columns side by side; the
// other four pass the operands, of 16 units of k at a time: a panel's as they stand, a strip's row by row.
// Sums of 16 units begin at 0 and are added to the tile's, whatever its rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "amx.hpp"
#include "meanwhile.hpp"
#include "room.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

#if defined(FINEGRAIN_HAS_AMX)

/// The registers of a tile: its sums; two of A, one above the other; two of B, side by side.
struct amx_tile {
  static constexpr int high = 16;  // rows of a register
  static constexpr std::int64_t row = lanes * 4, deep = unit<format::bf16>::deep;  // bytes; units
  static_assert(strip_rows<format::bf16> == 2 * high && panel_width == 2 * lanes && lanes == 16);

  static constexpr auto shapes = [] {
    std::array<amx::shape, 2 * high + 1> all;
    for (int rows = 0; rows <= 2 * high; ++rows) {
      int const above = std::min(rows, high), below = rows - above;
      int const of[] = {above, above, below, below, above, below, high, high};
      amx::shape& shape = all[static_cast<std::size_t>(rows)];
      for (int i = 0; i < 8; ++i) {
        shape.rows[i] = static_cast<std::uint8_t>(of[i]);
        shape.bytes[i] = of[i] > 0 ? row : 0;
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

  bool both() const { return rows > high; }

  /// Sums, rows of which are `stride` numbers apart.
  FINEGRAIN_INLINE void start(sink to, float const* sums, std::int64_t stride) const {
    if (to == sink::fresh) {
      amx::zero<0>(), amx::zero<1>();
      if (both()) amx::zero<2>(), amx::zero<3>();
    } else {
      amx::load<0>(sums, stride * 4), amx::load<1>(sums + lanes, stride * 4);
      sums += high * stride;
      if (both()) amx::load<2>(sums, stride * 4), amx::load<3>(sums + lanes, stride * 4);
    }
  }
  FINEGRAIN_INLINE void finish(float* sums, std::int64_t stride) const {
    amx::store<0>(sums, stride * 4), amx::store<1>(sums + lanes, stride * 4);
    sums += high * stride;
    if (both()) amx::store<2>(sums, stride * 4), amx::store<3>(sums + lanes, stride * 4);
  }
  /// sums += a . panel of some units, a multiple of 16. Behind them a stands then.
  template <class Meanwhile>
  FINEGRAIN_INLINE void add(float const*& a, std::int64_t units, float const* panel,
                            Meanwhile& meanwhile) const {
    both() ? add<true>(a, units, panel, meanwhile) : add<false>(a, units, panel, meanwhile);
    if constexpr (requires { meanwhile.also; }) meanwhile.also.rest();
  }

 private:
  template <bool Both, class Meanwhile>
  FINEGRAIN_INLINE void add(float const*& a, std::int64_t units, float const* panel,
                            Meanwhile& meanwhile) const {
    for (std::int64_t k = 0; k < units; k += deep) {
      if constexpr (requires { meanwhile.every; })
        meanwhile.fetch_far(deep);
      else
        meanwhile.fetch(k);
      if constexpr (requires { meanwhile.also; }) meanwhile.also.some();
      amx::load<6>(panel, 2 * row);
      amx::load<4>(a, row);
      amx::add_product<0, 4, 6>();
      amx::load<7>(panel + lanes, 2 * row);
      amx::add_product<1, 4, 7>();
      if constexpr (Both) {
        amx::load<5>(a + high * lanes, row);
        amx::add_product<2, 5, 6>();
        amx::add_product<3, 5, 7>();
      }
      a += rows * deep;
      panel += deep * panel_width;
    }
  }
};

/// As run_tiles.
template <class Next>
void run_matrix_tiles(int rows, float const* a, std::int64_t units, float const* panel, sink to,
                      float* sums, std::int64_t stride, tile_step step, int count, Next& next) {
  amx_tile const tile(rows);
  for (int t = 0; t < count; ++t, a += step.rows, panel += step.panel, sums += step.sums) {
    float const* from = a;
    tile.start(to, sums, stride);
    if constexpr (requires { next.every; }) {
      tile.add(from, units, panel, next);
    } else {
      auto meanwhile = next(t);
      tile.add(from, units, panel, meanwhile);
    }
    tile.finish(sums, stride);
  }
}

/// As scaled_tile.
template <class Flow>
void scaled_matrix_tile(int rows, float const* strip, std::int64_t units, std::int64_t block,
                        float const* panel, float const* scales, float* sums, Flow& next) {
  alignas(64) float mine[2 * amx_tile::high * panel_width];
  amx_tile const tile(rows);
  for (; units > 0; units -= block, panel += block * panel_width, scales += panel_width) {
    tile.start(sink::fresh, nullptr, 0);
    tile.add(strip, std::min(units, block), panel, next);
    tile.finish(mine, panel_width);
    for (int j = 0; j < vectors; ++j) {
      vec const scale = load(scales + j * lanes);
      for (int r = 0; r < rows; ++r) {
        float* const to = sums + r * panel_width + j * lanes;
        vec total = load(to);
        add_product(load(mine + r * panel_width + j * lanes), scale, total);
        store(to, total);
      }
    }
  }
}

#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
