// product: the matrix products that everything here is made of.
//
// A product is made panel by panel: so many columns of B are copied, depth by depth, into a packed
// panel (k by k, each a whole number of vectors), and tiles of up to 6 rows of A run over it. Each
// sum is one chain over k = 0, 1, 2, ..., whatever the tile's height, its neighbours or the number
// of rows: that is why a token's result does not depend on its batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/matrix.hpp"
#include "../plan/plan.hpp"
#include "simd.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

inline constexpr int panel_width = vectors * lanes;  // columns of a packed panel
inline constexpr int tile_rows = 6;                  // with `vectors`, fills the register file
inline constexpr int depth = 256;      // k's in a packed panel: it and a tile's rows stay in L1
inline constexpr int block_rows = 96;  // rows that share one packing of B
inline constexpr int outer_rows = 48;  // rows of a weight gradient that are made together

/// What one task needs beside its operands, on its stack.
struct room {
  alignas(64) float panel[depth * panel_width];      // (k, column)
  alignas(64) float sums[block_rows * panel_width];  // (row, column): the product
};

/// Rows of numbers by index: row i, or row index[i].
struct row_list {
  float const* data = nullptr;
  std::int64_t stride = 0;
  std::int32_t const* index = nullptr;

  row_list() = default;
  row_list(matrix<float const> m, std::int32_t const* index = nullptr)  // NOLINT(*-explicit*)
      : data(m.data), stride(m.stride), index(index) {}
  float const* operator[](std::int64_t i) const { return data + (index ? index[i] : i) * stride; }
};

/// to[c * stride + r] = from[r][c] for up to `lanes` rows and columns, and zeros to a whole vector.
FINEGRAIN_INLINE void transpose(float const* const* from, std::int64_t rows, std::int64_t cols,
                                float* to, std::int64_t stride) {
  vec row[lanes];
  if (rows == lanes && cols == lanes) {
    FINEGRAIN_UNROLL
    for (int r = 0; r < lanes; ++r) row[r] = load(from[r]);
    transpose(row);
    FINEGRAIN_UNROLL
    for (int c = 0; c < lanes; ++c) store(to + c * stride, row[c]);
    return;
  }
  for (int r = 0; r < lanes; ++r) row[r] = r < rows ? load_first(from[r], cols) : vec{};
  transpose(row);
  for (std::int64_t c = 0; c < cols; ++c) store(to + c * stride, row[c]);
}

/// B = W^T for weights stored [out][in]: column n of B is row n of W. Or two of one shape side by
/// side, gate and up: the first half of a panel's vectors from the one, the second from the other.
struct transposed {
  matrix<float const> first, second;

  transposed(matrix<float const> w) : first(w) {}  // NOLINT(*-explicit*)
  transposed(matrix<float const> gate, matrix<float const> up) : first(gate), second(up) {}

  /// Outputs of one matrix in a panel.
  std::int64_t width() const { return second.data ? panel_width / 2 : panel_width; }
  std::int64_t panels() const { return (first.rows + width() - 1) / width(); }

  /// The row of W that is column c of a panel; behind the last, the last again.
  float const* row(std::int64_t panel, int c) const {
    auto const n = width();
    return (c < n ? first : second).row(std::min(panel * n + (c < n ? c : c - n), first.rows - 1));
  }
  void pack(std::int64_t panel, std::int64_t k0, std::int64_t count, float* to) const {
    for (int j = 0; j < vectors; ++j) {
      float const* from[lanes];
      for (int i = 0; i < lanes; ++i) from[i] = row(panel, j * lanes + i) + k0;
      float* out = to + j * lanes;
      for (std::int64_t k = 0; k < count; k += lanes, out += lanes * panel_width) {
        transpose(from, lanes, std::min<std::int64_t>(lanes, count - k), out, panel_width);
        for (auto& p : from) p += lanes;
      }
    }
  }
  void prefetch(std::int64_t panel, std::int64_t k0, std::int64_t count, int part,
                int parts) const {
    for (int c = panel_width * part / parts; c < panel_width * (part + 1) / parts; ++c)
      for (std::int64_t k = 0; k < count; k += 16) __builtin_prefetch(row(panel, c) + k0 + k, 0, 2);
  }
};

/// B as stored: row k of B is row k of a list; after `split` rows those of a second list go on.
struct straight {
  row_list first;
  std::int64_t cols = 0;
  row_list second{};
  std::int64_t split = INT64_MAX;

  std::int64_t panels() const { return (cols + panel_width - 1) / panel_width; }
  float const* row(std::int64_t k) const { return k < split ? first[k] : second[k - split]; }

  void pack(std::int64_t panel, std::int64_t k0, std::int64_t count, float* to) const {
    std::int64_t const n0 = panel * panel_width;
    std::int64_t const n = std::min<std::int64_t>(panel_width, cols - n0);
    for (std::int64_t k = 0; k < count; ++k, to += panel_width) {
      float const* const from = row(k0 + k) + n0;
      if (n == panel_width) {
        FINEGRAIN_UNROLL
        for (int j = 0; j < vectors; ++j) store(to + j * lanes, load(from + j * lanes));
      } else {
        for (std::int64_t c = 0; c < panel_width; ++c) to[c] = c < n ? from[c] : 0.0f;
      }
    }
  }
  void prefetch(std::int64_t panel, std::int64_t k0, std::int64_t count, int part,
                int parts) const {
    std::int64_t const n0 = panel * panel_width;
    for (std::int64_t k = count * part / parts; k < count * (part + 1) / parts; ++k)
      for (std::int64_t c = n0; c < std::min<std::int64_t>(n0 + panel_width, cols); c += 16)
        __builtin_prefetch(row(k0 + k) + c, 0, 2);
  }
};

/// sums(Rows, panel_width) += a(Rows, count) . panel(count, panel_width).
template <int Rows>
void tile(float const* const* a, std::int64_t k0, std::int64_t count, float const* panel,
          float* sums) {
  float const* row[Rows];
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    row[r] = a[r] + k0;
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) sum[r][j] = load(sums + r * panel_width + j * lanes);
  }
  for (std::int64_t k = 0; k < count; ++k) {
    vec b[vectors];
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) b[j] = load(panel + k * panel_width + j * lanes);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(row[r][k]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) sum[r][j] += x * b[j];
    }
  }
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * panel_width + j * lanes, sum[r][j]);
  }
}
inline void tile(int rows, float const* const* a, std::int64_t k0, std::int64_t count,
                 float const* panel, float* sums) {
  using function = void (*)(float const* const*, std::int64_t, std::int64_t, float const*, float*);
  static constexpr function height[tile_rows] = {tile<1>, tile<2>, tile<3>,
                                                 tile<4>, tile<5>, tile<6>};
  height[rows - 1](a, k0, count, panel, sums);
}

/// room.sums(rows, panel_width) = a(rows, K) . B(K, columns of the panel), for up to block_rows
/// rows. The panel that `next` names is fetched meanwhile; the same again if there is none.
template <class B>
void multiply(float const* const* a, int rows, std::int64_t K, B const& b, std::int64_t panel,
              std::int64_t next, room& room) {
  std::fill_n(room.sums, rows * panel_width, 0.0f);
  int const tiles = (rows + tile_rows - 1) / tile_rows;  // of nearly equal height
  for (std::int64_t k0 = 0; k0 < K; k0 += depth) {
    std::int64_t const count = std::min<std::int64_t>(depth, K - k0), k1 = k0 + count;
    bool const last = k1 == K;
    b.pack(panel, k0, count, room.panel);
    for (int t = 0; t < tiles; ++t) {
      if (!last)
        b.prefetch(panel, k1, std::min<std::int64_t>(depth, K - k1), t, tiles);
      else if (next != panel)
        b.prefetch(next, 0, std::min<std::int64_t>(depth, K), t, tiles);
      int const begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      tile(end - begin, a + begin, k0, count, room.panel, room.sums + begin * panel_width);
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

/// y(rows, columns of panels [first, last)) = or += a(rows, K) . B, for up to block_rows rows.
template <class B>
void multiply_block(float const* const* a, std::int64_t K, B const& b, std::int64_t first,
                    std::int64_t last, matrix<float> y, gradients mode) {
  room room;
  for (std::int64_t p = first; p < last; ++p) {
    multiply(a, static_cast<int>(y.rows), K, b, p, p + 1 < last ? p + 1 : p, room);
    std::int64_t const n0 = p * panel_width;
    for (std::int64_t r = 0; r < y.rows; ++r)
      put(room.sums + r * panel_width, std::min<std::int64_t>(panel_width, y.cols - n0), mode,
          y.row(r) + n0);
  }
}

/// dw(rows, D) = or += the sum over k < K of a[k][first + row] * b[k][:], for up to outer_rows
/// rows of dw: so many outputs of a weight gradient.
inline void outer_product(row_list a, std::int64_t first, row_list b, std::int64_t K,
                          matrix<float> dw, gradients mode) {
  constexpr int stride = depth + 16;  // rows on different cache sets
  room room;
  alignas(64) float left[outer_rows * stride];  // a's numbers, (row, k)
  float const* rows[outer_rows];
  for (int r = 0; r < outer_rows; ++r) rows[r] = left + r * stride;
  if (K == 0 && mode == gradients::overwrite)
    for (std::int64_t r = 0; r < dw.rows; ++r) std::fill_n(dw.row(r), dw.cols, 0.0f);
  for (std::int64_t k0 = 0; k0 < K; k0 += depth) {
    std::int64_t const count = std::min<std::int64_t>(depth, K - k0);
    for (std::int64_t k = 0; k < count; k += lanes) {
      std::int64_t const ks = std::min<std::int64_t>(lanes, count - k);
      for (std::int64_t r = 0; r < dw.rows; r += lanes) {
        float const* from[lanes];
        for (std::int64_t i = 0; i < ks; ++i) from[i] = a[k0 + k + i] + first + r;
        transpose(from, ks, std::min<std::int64_t>(lanes, dw.rows - r), left + r * stride + k,
                  stride);
      }
    }
    row_list rest = b;
    if (rest.index)
      rest.index += k0;
    else
      rest.data += k0 * rest.stride;
    straight const right{rest, dw.cols};
    for (std::int64_t p = 0; p < right.panels(); ++p) {
      multiply(rows, static_cast<int>(dw.rows), count, right, p, p + 1 < right.panels() ? p + 1 : p,
               room);
      std::int64_t const n0 = p * panel_width;
      for (std::int64_t r = 0; r < dw.rows; ++r)
        put(room.sums + r * panel_width, std::min<std::int64_t>(panel_width, dw.cols - n0),
            k0 == 0 ? mode : gradients::accumulate, dw.row(r) + n0);
    }
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
