// amx_integers: tiles of up to 16 rows of integers and a panel of codes, in registers for matrices.
//
// Integers of rows and codes are bytes (integers.hpp), four of them along k a word. A panel has a
// row of words for every four numbers. Behind the last code there is what was there before: bytes
// of rows are 0 there. Sums are exact, so that they are those of few rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "amx_tile.hpp"
#include "integers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

#if defined(FINEGRAIN_HAS_AMX)

/// Registers 0 and 1 of amx_tile's have the sums, 4 a strip's words, 6 and 7 a panel's.
template <format F>
requires(Integers<F>) struct scaled_matrix_tile<F> {
 private:
  using number = unit<F>;
  static constexpr int high = amx_tile::high, words = number::register_words;
  static constexpr std::int64_t row_bytes = words * 4, panel_row_bytes = panel_width * 4;
  static constexpr std::int64_t sums_size = high * panel_width;

  static constexpr auto shapes = [] {
    std::array<amx::shape, high + 1> all;
    for (int rows = 1; rows <= high; ++rows)
      for (int i = 0; i < 8; ++i) {
        amx::shape& shape = all[static_cast<std::size_t>(rows)];
        shape.rows[i] = static_cast<std::uint8_t>(i < 6 ? rows : words);
        shape.bytes[i] = i == 4 || i == 5 ? row_bytes : panel_row_bytes / 2;
      }
    return all;
  }();

  int const rows_;

 public:
  explicit scaled_matrix_tile(int rows) : rows_(rows) {
    require_matrix_registers();
    amx::begin(shapes[static_cast<std::size_t>(rows)]);
  }
  ~scaled_matrix_tile() { amx::end(); }
  scaled_matrix_tile(scaled_matrix_tile const&) = delete;

  /// Sums leave while the next ones are multiplied, and those of a block become floats then.
  template <Flow Next>
  void operator()(float const* strip, float const* blocks, std::int64_t units, std::int64_t,
                  panels_abreast const& panels, float* sums, Next& next) const {
    float const *panel = panels.first, *scales = panels.scales;
    // If it has room, where sums are not by the last 12 bits of addresses: what is stored at one,
    // loads of others that have the same bits wait for.
    alignas(4096) float room[2 * sums_size];
    float* const mine =
        room + ((reinterpret_cast<std::uintptr_t>(sums) & 2048) == 0 ? sums_size : 0);
    float* last = nullptr;
    for (; units > 0; units -= number::block_units) {
      std::int64_t const end = std::min<std::int64_t>(units, number::block_units);
      step(strip, panel, amx_tile::handover{last, nullptr, panel_width}, next);
      for (std::int64_t k = 2 * words; k < end; k += 2 * words)
        step(
            strip, panel, [](auto) {}, next);
      if (last) add_block(mine, blocks, scales, sums);
      last = mine;
    }
    amx_tile::finish<false>(last, panel_width);
    add_block(mine, blocks, scales, sums);
  }

 private:
  template <class Before, Flow Next>
  FINEGRAIN_INLINE void step(float const*& strip, float const*& panel, Before const& before,
                             Next& next) const {
    static_assert(Next::every == 16);
    for (int i = 0; i < words; i += 8) next.fetch();  // for 16 units each
    amx::load<6>(panel, panel_row_bytes);
    amx::load<4>(strip, row_bytes);
    before(std::integral_constant<int, 0>{});
    amx::add_bytes<0, 4, 6>();
    amx::load<7>(panel + lanes, panel_row_bytes);
    before(std::integral_constant<int, 1>{});
    amx::add_bytes<1, 4, 7>();
    strip += words * rows_;
    panel += words * panel_width;
  }
  FINEGRAIN_INLINE void add_block(float const* from, float const*& blocks, float const*& scales,
                                  float* sums) const {
    int const rows = rows_;
    for (int r = 0; r < rows; ++r) {
      vec const scale = broadcast(blocks[number::scale_at * rows + r]);
      // may be anything, of a NaN
      uvec const start = reinterpret_cast<uvec>(every_lane<F>(blocks[number::whole_at * rows + r]));
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) {
        float* const to = sums + r * panel_width + j * lanes;
        uvec const sum = reinterpret_cast<uvec>(load(from + r * panel_width + j * lanes)) + start;
        vec const by = scales ? load(scales + j * lanes) : vec{} + 1.0f;
        vec total = load(to);
        number::add_scaled(reinterpret_cast<vec>(sum), scale, by, total);
        store(to, total);
      }
    }
    blocks += number::block_floats * rows;
    if (scales) scales += panel_width;
  }
};

#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
