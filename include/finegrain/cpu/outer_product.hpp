// outer_product: a sum of outer products, dw = A^T B, which weights' gradients are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "product.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// dw(rows, D) = or += the sum over k < K of a[k][first + row] * b[k][:]: a weight gradient, or some
/// outputs of it. From the outermost loop to the innermost:
///
///   k0    some of k
///   p     as many columns of b as `right`, of `size` numbers, holds packed: best all of them, in the
///         last-level cache
///   top   a block of dw's rows: a, turned over, is packed into strips
///   q     a group of panels of b, which stays in the second-level cache
///   r     strip after strip, each in the first, passes the group
///
/// A strip's sums leave in long rows while the next strip is multiplied: stores of a line to each of some
/// rows that lie a power of 2 apart wait for one another. Overwritten numbers go past the caches.
template <format F>
void outer_product(row_list a, std::int64_t first, row_list b, std::int64_t K, matrix<float> dw,
                   gradients mode, room& room, float* right, std::int64_t size) {
  constexpr std::int64_t step = depth * unit<F>::numbers, most_high = strips<F>::most;
  constexpr std::int64_t group = std::min<std::int64_t>(
      2 * block_panels, block_rows * block_cols / (2 * most_high * panel_width));
  constexpr std::int64_t width = group * panel_width, wide = tile_panels<F>;
  static_assert(group % wide == 0);
  float *here = room.sums, *there = room.sums + most_high * width;  // (height, width)
  leaving last;  // a strip's sums, while the next strip is multiplied
  if (K == 0 && mode == gradients::overwrite)
    for (std::int64_t r = 0; r < dw.rows; ++r) std::fill_n(dw.row(r), dw.cols, 0.0f);
  straight const source{b, dw.cols};
  for (std::int64_t k0 = 0; k0 < K; k0 += step) {
    std::int64_t const count = std::min(step, K - k0), units = product_units<F>(count);
    gradients const how = k0 == 0 ? mode : gradients::accumulate;
    std::int64_t const panel = units * panel_width, most = size / panel;  // numbers; panels
    for (std::int64_t p = 0; p < source.panels(); p += most) {
      std::int64_t const end = std::min(source.panels(), p + most);
      source.pack<F>(p, end, k0, count, right, units);
      for (std::int64_t top = 0; top < dw.rows; top += block_rows) {
        std::int64_t const rows = std::min<std::int64_t>(block_rows, dw.rows - top);
        strips<F> const left(room.left, static_cast<int>(rows), depth);
        left.pack_columns(a.after(k0), first + top, count);
        // All the block's tiles together fetch the rows of a that the next block is packed from.
        std::int64_t const next_end = std::min(top + 2 * block_rows, dw.rows);
        std::int64_t const tiles = left.tiles() * ceil_div(end - p, wide);
        std::int64_t fetched = top + block_rows < dw.rows ? 0 : count, tile = 0;
        for (std::int64_t q = p; q < end; q += group) {
          std::int64_t const panels = std::min(group, end - q), c = q * panel_width;
          std::int64_t const n = std::min(panels * panel_width, dw.cols - c);
          left.each([&](int r, int height, float const* strip) {
            matrix<float> const to(dw.row(top + r) + c, height, n, dw.stride);
            std::int64_t const turns = tiles_of<F>(height), whole = panels / wide * wide;
            std::int64_t begun = 0;  // tiles, in both runs
            auto const next = [&](int) {
              std::int64_t const c0 = std::min(n, begun / turns * wide * panel_width);
              std::int64_t const c1 = std::min(n, c0 + wide * panel_width);
              bool const prefetches = begun++ % turns == 0;
              for (++tile; fetched * tiles < count * tile; ++fetched)
                for (std::int64_t row = top + block_rows; row < next_end; row += line)
                  __builtin_prefetch(a[k0 + fetched] + first + row, 0, 2);
              if (prefetches && how == gradients::accumulate)
                for (int row = 0; row < height; ++row)
                  for (std::int64_t k = c0; k < c1; k += line)
                    __builtin_prefetch(to.row(row) + k, 0, 2);
              last.begin();
              return only_leaving{{&last}};
            };
            last.spread(ceil_div(panels, wide) * turns, units);
            wishes<only_leaving> meanwhile(next);
            auto const run = [&](std::int64_t from, int abreast, std::int64_t times) {
              run_tiles<F, strip_form<F>>(
                  height, strip, units,
                  {right + (q - p + from) * panel, abreast, panel, panel_width}, sink::fresh,
                  here + from * panel_width, width, {0, abreast * panel, abreast * panel_width},
                  static_cast<int>(times), meanwhile);
            };
            run(0, wide, whole / wide);
            if (whole < panels) run(whole, 1, panels - whole);
            if (how == gradients::overwrite && leaving::fits(to)) {
              std::int64_t const columns = n / lanes;
              last = {here, to.data, width, to.stride, columns, height * columns};
              std::swap(here, there);
            } else {
              for (int i = 0; i < height; ++i) put_past(here + i * width, n, how, to.row(i));
            }
          });
        }
      }
    }
    last.finish();
  }
  fence();
}
template <format F = format::f32>
void outer_product(row_list a, std::int64_t first, row_list b, std::int64_t K, matrix<float> dw,
                   gradients mode) {
  room room;
  outer_product<F>(a, first, b, K, dw, mode, room, room.right, right_size);
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
