// product: the matrix products that everything here is made of.
//
// Short rows, and B as stored, are multiplied panel by panel: so many columns of B are copied, depth
// by depth, into a packed panel, and tiles of rows of A run over it. Long rows of weights as stored
// are multiplied in place, lane by lane. Either way a sum has one order, which depends on k's length
// alone, not on the tile, its neighbours or the number of rows: that is why a token's result does
// not depend on its batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "../plan/plan.hpp"
#include "in_place.hpp"
#include "packed.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// room.sums = a(rows, K) . W^T(K, panels [first, last)), for up to block_rows rows and
/// block_panels panels: in place where W's rows are long, packed where they are short.
inline void multiply_rows(row_list a, int rows, std::int64_t K, transposed const& b,
                          std::int64_t first, std::int64_t last, room& room) {
  if (K < long_row) return multiply(a, rows, K, b, first, last, room);
  int const columns = static_cast<int>(last - first) * panel_width;
  int const blocks = static_cast<int>(ceil_div(rows, half_rows));
  for (int i = 0; i < blocks; ++i) {
    int const begin = rows * i / blocks, end = rows * (i + 1) / blocks;
    multiply_long(a.from(begin), end - begin, K, b, first, columns, room,
                  room.sums + begin * panel_width, rows * panel_width);
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
template <class B>
void multiply_block(row_list a, std::int64_t K, B const& b, std::int64_t first, std::int64_t last,
                    matrix<float> y, gradients mode) {
  room room;
  for (std::int64_t p = first; p < last; p += block_panels) {
    std::int64_t const end = std::min<std::int64_t>(last, p + block_panels);
    if constexpr (std::is_same_v<B, transposed>)
      multiply_rows(a, static_cast<int>(y.rows), K, b, p, end, room);
    else
      multiply(a, static_cast<int>(y.rows), K, b, p, end, room);
    put(room, p, end, y, mode);
  }
}

/// dw(rows, D) = or += the sum over k < K of a[k][first + row] * b[k][:], for up to block_rows
/// rows of dw: so many outputs of a weight gradient.
inline void outer_product(row_list a, std::int64_t first, row_list b, std::int64_t K,
                          matrix<float> dw, gradients mode) {
  room room;
  if (K == 0 && mode == gradients::overwrite)
    for (std::int64_t r = 0; r < dw.rows; ++r) std::fill_n(dw.row(r), dw.cols, 0.0f);
  straight const right{b, dw.cols};
  for (std::int64_t k0 = 0; k0 < K; k0 += depth) {
    std::int64_t const count = std::min<std::int64_t>(depth, K - k0);
    for (std::int64_t k = 0; k < count; k += lanes) {
      std::int64_t const ks = std::min<std::int64_t>(lanes, count - k);
      for (std::int64_t r = 0; r < dw.rows; r += lanes) {
        float const* from[lanes];
        for (std::int64_t i = 0; i < ks; ++i) from[i] = a[k0 + k + i] + first + r;
        transpose(from, ks, std::min<std::int64_t>(lanes, dw.rows - r),
                  room.left + r * left_stride + k, left_stride);
      }
    }
    for (std::int64_t p = 0; p < right.panels(); p += block_panels) {
      std::int64_t const end = std::min(right.panels(), p + block_panels);
      right.pack(p, end, k0, count, room.right, {});
      for (std::int64_t q = p; q < end; ++q)
        multiply_panel(room, static_cast<int>(dw.rows), count,
                       room.right + (q - p) * count * panel_width, true,
                       room.sums + (q - p) * dw.rows * panel_width, [](int, int, ahead&) {});
      put(room, p, end, dw, k0 == 0 ? mode : gradients::accumulate);
    }
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
