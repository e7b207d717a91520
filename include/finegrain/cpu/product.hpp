// product: matrix products of run-time shapes, a block of rows and columns at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/plan.hpp"
#include "panels.hpp"
#include "strips.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// sums(panel, row, column) = a(rows, K) . B(K, panels [first, last)), for up to block_rows rows.
/// Some of k at a time, both operands are copied to where they stay in a cache, B some panels at a time: at
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
  constexpr std::int64_t deep = B::template units<F>, step = deep * unit<F>::numbers;
  constexpr bool pieces = B::template in_pieces<F>;
  // a panel ends a unit later than it must: a row's parts in several panels are in as many cache sets
  constexpr std::int64_t half = right_size / 2, panel = (deep + 1) * panel_width;
  static_assert(B::template group<F> * panel <= half);
  struct block {
    std::int64_t first, last, k, count;  // panels, and numbers of k: 0 behind the last block
  };
  auto const block_at = [&](std::int64_t p, std::int64_t k) {
    return block{p, std::min<std::int64_t>(last, p + B::template group<F>), k,
                 std::clamp(K - k, {}, step)};
  };
  auto const after = [&](block const& it) {
    return it.last < last ? block_at(it.last, it.k) : block_at(first, it.k + it.count);
  };
  auto const fetch = [&](block const& it, int part, int parts) {
    return it.count > 0 ? b.ahead(it.first, it.last, it.k, it.count, part, parts) : ahead{};
  };
  strips<F> const left(room.left, rows, deep);
  float *here = room.right, *there = room.right + half;
  for (block now = block_at(first, 0), next; now.count > 0; now = next) {
    next = after(now);
    block const later = after(next);
    std::int64_t const units = product_units<F>(now.count);
    if (now.first == first) left.pack_rows(a, now.k, now.count);
    if (!pieces || (now.first == first && now.k == 0))
      b.template pack<F>(now.first, now.last, now.k, now.count, here, deep + 1);
    constexpr std::int64_t wide = tile_panels<F>;
    int const tiles = left.tiles(),
              parts = static_cast<int>(ceil_div(now.last - now.first, wide)) * tiles;
    for (std::int64_t p = now.first; p < now.last; p += wide)
      left.multiply(
          units,
          {here + (p - now.first) * panel, static_cast<int>(std::min(wide, now.last - p)), panel},
          now.k == 0 ? sink::fresh : sink::go_on, sums + (p - first) * rows * panel_width,
          [&](int t) {
            int const part = static_cast<int>((p - now.first) / wide) * tiles + t;
            if constexpr (pieces)
              return ahead_and_moving<F>{
                  (part + 1 < parts ? fetch(next, part + 1, parts) : fetch(later, 0, parts))
                      .during(units),
                  b.template pack_part<F>(next.first, next.last, next.k, next.count, part, parts,
                                          units, there, deep + 1)};
            else
              return fetch(next, part, parts).during(units);
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
  static_assert(strips<P>::size(block_rows, depth) <= left_size);
  constexpr std::int64_t n = unit<P>::numbers;
  auto const right = b.matrix(0, room.right);
  std::int64_t const units = units_of<P>(K), most = block_rows / rows * depth;
  std::int64_t const pass = std::clamp<std::int64_t>(right.pass(rows, 0), 1, most);
  std::int64_t const step = most / pass * pass;  // a short rest of a pass would fetch a whole one
  auto const some = [&](std::int64_t k) { return std::min(step, units - k); };
  for (std::int64_t begin = 0; begin < units; begin += step) {
    bool const whole = begin + some(begin) == units;
    row_list from = a;
    from.data += begin * n;
    left_rows<P> const left(room.left, from, rows, std::min(some(begin) * n, K - begin * n));
    for (std::int64_t p = first, side; p < last; p += side) {
      side = std::min<std::int64_t>(right.abreast(rows), last - p);
      piece const then = p + side < last ? piece{p + side, begin, some(begin)}
                         : whole         ? piece{}
                                         : piece{first, begin + step, some(begin + step)};
      multiply_panels(left.rows(), right, {p, begin, some(begin)}, static_cast<int>(side), whole,
                      sums + (p - first) * rows * panel_width, then);
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

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
