// product: matrix products of run-time shapes, a block of rows and columns at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/plan.hpp"
#include "panels.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// sums(panel, row, column) = a(rows, K) . B(K, panels [first, last)), for up to block_rows rows.
/// Depth by depth, both operands are copied to where they stay in a cache, B some panels at a time: at
/// once, or piece by piece while the panels before are multiplied. What is packed next is fetched
/// before. Few rows meet weights as they are stored.
template <format F = format::f32, class B>
void multiply(row_list a, int rows, std::int64_t K, B const& b, std::int64_t first,
              std::int64_t last, room& room, float* sums) {
  if constexpr (std::is_same_v<B, transposed>)
    if (rows <= packing<F>::few && K > 0 && K <= block_rows / rows * depth) {
      left_rows<F> const left(room.left, a, rows, K);
      left.multiply(packing<F>{b, K, room.right}, first, last,
                    [&](std::int64_t p, float const* product) {
                      std::int64_t const size = rows * panel_width;
                      std::copy_n(product, size, sums + (p - first) * size);
                    });
      return;
    }
  constexpr std::int64_t step = depth * unit<F>::numbers;
  constexpr bool pieces = B::template in_pieces<F>;
  // a panel ends a unit later than it must: a row's parts in several panels are in as many cache sets
  constexpr std::int64_t half = right_size / 2, panel = (depth + 1) * panel_width;
  static_assert(B::group * panel <= half);
  struct block {
    std::int64_t first, last, k, count;  // panels, and numbers of k: 0 behind the last block
  };
  auto const block_at = [&](std::int64_t p, std::int64_t k) {
    return block{p, std::min<std::int64_t>(last, p + B::group), k, std::clamp(K - k, {}, step)};
  };
  auto const after = [&](block const& it) {
    return it.last < last ? block_at(it.last, it.k) : block_at(first, it.k + it.count);
  };
  auto const fetch = [&](block const& it, int part, int parts) {
    return it.count > 0 ? b.ahead(it.first, it.last, it.k, it.count, part, parts) : ahead{};
  };
  float *here = room.right, *there = room.right + half;
  for (block now = block_at(first, 0), next; now.count > 0; now = next) {
    next = after(now);
    block const later = after(next);
    std::int64_t const units = ceil_div(now.count, unit<F>::numbers);
    if (now.first == first)
      for (int r = 0; r < rows; ++r)
        unit<F>::keep(a[r] + now.k, now.count, room.left + r * left_stride<F>);
    if (!pieces || (now.first == first && now.k == 0))
      b.template pack<F>(now.first, now.last, now.k, now.count, here, depth + 1);
    for (std::int64_t p = now.first; p < now.last; ++p)
      tiles<F>(rows, room.left, 0, units, here + (p - now.first) * panel,
               now.k == 0 ? sink::fresh : sink::go_on, sums + (p - first) * rows * panel_width,
               panel_width, [&](int t, int tiles) {
                 int const part = static_cast<int>(p - now.first) * tiles + t;
                 int const parts = static_cast<int>(now.last - now.first) * tiles;
                 if constexpr (pieces)
                   return ahead_and_moving{
                       part + 1 < parts ? fetch(next, part + 1, parts) : fetch(later, 0, parts),
                       b.pack_part(next.first, next.last, next.k, next.count, part, parts, units,
                                   there, depth + 1)};
                 else
                   return fetch(next, part, parts);
               });
    if (pieces) std::swap(here, there);
  }
}

/// The same with weights that were packed ahead. Of few rows all of k is copied at a time, if there is
/// room, so that each panel is read from end to end.
template <format P, format F>
void multiply(row_list a, int rows, std::int64_t K, panels<F> const& b, std::int64_t first,
              std::int64_t last, room& room, float* sums) {
  static_assert(P == panels<F>::products);
  constexpr std::int64_t n = unit<P>::numbers;
  auto const right = b.matrix(0, room.right);
  std::int64_t const units = units_of<P>(K), step = block_rows / rows * depth;
  for (std::int64_t begin = 0; begin < units; begin += step) {
    std::int64_t const end = std::min(units, begin + step);
    row_list from = a;
    from.data += begin * n;
    left_rows<P> const left(room.left, from, rows, std::min(end * n, K) - begin * n);
    left.make_starts();
    for (std::int64_t p = first, side; p < last; p += side) {
      side = std::min<std::int64_t>(right.abreast(rows), last - p);
      for (std::int64_t k = begin; k < end; k += right.pass) {
        std::int64_t const count = std::min(right.pass, end - k);
        bool const more = k + count < end;
        right.run(rows, left.at(0, k - begin), rows * left_stride<P>, p, static_cast<int>(side), k,
                  count, k + count == units, sums + (p - first) * rows * panel_width,
                  [&](int part, int parts) {
                    if (!more && p + side == last) return flow{};
                    std::int64_t const then = more ? k + count : begin;
                    return right.next(more ? p : p + side, then, std::min(right.pass, end - then),
                                      part, parts);
                  });
      }
    }
  }
}

/// y[0, n) = sums, or += sums.
FINEGRAIN_INLINE void put(float const* sums, std::int64_t n, gradients mode, float* y) {
  bool const add = mode == gradients::accumulate;
  std::int64_t c = 0;
  for (; c + lanes <= n; c += lanes)
    store(y + c, add ? load(y + c) + load(sums + c) : load(sums + c));
  for (; c < n; ++c) y[c] = add ? y[c] + sums[c] : sums[c];
}
/// The same for numbers that nobody reads soon: whole vectors that are overwritten go past the caches.
FINEGRAIN_INLINE void put_past(float const* sums, std::int64_t n, gradients mode, float* y) {
  std::int64_t c = 0;
  if (mode == gradients::overwrite && can_stream(y))
    for (; c + lanes <= n; c += lanes) stream(y + c, load(sums + c));
  put(sums + c, n - c, mode, y + c);
}
/// Rows of y, columns of panels [first, last).
inline void put(room const& room, std::int64_t first, std::int64_t last, matrix<float> y,
                gradients mode) {
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t p = first; p < last; ++p)
      put(room.sums + ((p - first) * y.rows + r) * panel_width,
          std::min<std::int64_t>(panel_width, y.cols - p * panel_width), mode,
          y.row(r) + p * panel_width);
}

/// y(rows, columns of panels [first, last)) = or += a(rows, K) . B, for up to block_rows rows.
template <format F = format::f32, class B>
void multiply_block(row_list a, std::int64_t K, B const& b, std::int64_t first, std::int64_t last,
                    matrix<float> y, gradients mode) {
  room room;
  if (K == 0) std::fill_n(room.sums, block_rows * block_cols, 0.0f);  // tiles would not write them
  for (std::int64_t p = first; p < last; p += block_panels) {
    std::int64_t const end = std::min<std::int64_t>(last, p + block_panels);
    multiply<F>(a, static_cast<int>(y.rows), K, b, p, end, room, room.sums);
    put(room, p, end, y, mode);
  }
}

/// left(row, k) = a[k][first + row] for k < K: the numbers of A, turned over. Rows of `a` may lie a power
/// of 2 apart and so in the same cache sets: each line is read once, while it is there.
template <format F>
void turn(row_list a, std::int64_t first, std::int64_t rows, std::int64_t K, float* left) {
  constexpr std::int64_t width = lanes * unit<F>::numbers;
  for (std::int64_t k = 0; k < K; k += width, left += width / unit<F>::numbers * unit<F>::parts)
    for (std::int64_t r = 0; r < rows; r += lanes) {
      std::int64_t const ks = std::min(width, K - k), n = std::min<std::int64_t>(lanes, rows - r);
      alignas(64) float turned[lanes][width];
      for (std::int64_t i = 0; i < ks; i += lanes) {
        float const* from[lanes];
        std::int64_t const some = std::min<std::int64_t>(lanes, ks - i);
        for (std::int64_t j = 0; j < some; ++j) from[j] = a[k + i + j] + first + r;
        transpose(from, some, n, turned[0] + i, width);
      }
      for (std::int64_t i = 0; i < n; ++i)
        unit<F>::keep(turned[i], ks, left + (r + i) * left_stride<F>);
    }
}

/// dw(rows, D) = or += the sum over k < K of a[k][first + row] * b[k][:]: a weight gradient, or some
/// outputs of it. Of b, as many columns as there is room for are packed at a time, and all rows of
/// dw pass over them. A few rows' sums for many columns are stored at a time: stores of a line to each
/// of some rows that lie a power of 2 apart wait for one another. Overwritten numbers go past the
/// caches.
template <format F = format::f32>
void outer_product(row_list a, std::int64_t first, row_list b, std::int64_t K, matrix<float> dw,
                   gradients mode) {
  constexpr std::int64_t step = depth * unit<F>::numbers, group = 2 * block_panels;
  static_assert(tile_rows * group * panel_width <= block_rows * block_cols);
  room room;
  if (K == 0 && mode == gradients::overwrite)
    for (std::int64_t r = 0; r < dw.rows; ++r) std::fill_n(dw.row(r), dw.cols, 0.0f);
  straight const right{b, dw.cols};
  for (std::int64_t k0 = 0; k0 < K; k0 += step) {
    std::int64_t const count = std::min(step, K - k0), units = ceil_div(count, unit<F>::numbers);
    gradients const how = k0 == 0 ? mode : gradients::accumulate;
    std::int64_t const most = right_size / (units * panel_width);  // panels
    for (std::int64_t p = 0; p < right.panels(); p += most) {
      std::int64_t const end = std::min(right.panels(), p + most);
      right.pack<F>(p, end, k0, count, room.right, units);
      for (std::int64_t top = 0; top < dw.rows; top += block_rows) {
        std::int64_t const rows = std::min<std::int64_t>(block_rows, dw.rows - top);
        turn<F>(a.after(k0), first + top, rows, count, room.left);
        for (std::int64_t q = p; q < end; q += group) {
          std::int64_t const panels = std::min(group, end - q), c = q * panel_width;
          std::int64_t const n = std::min(panels * panel_width, dw.cols - c);
          each_tile(static_cast<int>(rows), [&](int r, int height, int, int) {
            matrix<float> const to = dw.middle_rows(top + r, height);
            for (std::int64_t i = 0; i < panels; ++i) {
              ahead next;  // what will be added to
              if (how == gradients::accumulate)
                next = {to.data + c + i * panel_width, to.stride, height, panel_width};
              tile<F>(height, room.left + r * left_stride<F>, 0, units,
                      room.right + (q - p + i) * units * panel_width, sink::fresh,
                      room.sums + i * panel_width, group * panel_width, next);
            }
            for (int i = 0; i < height; ++i)
              put_past(room.sums + i * group * panel_width, n, how, to.row(i) + c);
          });
        }
      }
    }
  }
  fence();
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
