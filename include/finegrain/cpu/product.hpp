// product: the matrix products that everything here is made of.
//
// A product is made block by block: up to 96 rows of A and 128 columns of B, depth by depth, are
// copied to where they stay in the second-level cache (B as panels, k by k, each a whole number of
// vectors), and tiles of up to 6 rows run over a panel in the first-level cache. Each sum is one
// chain over k = 0, 1, 2, ..., whatever the tile's height, its neighbours or the number of rows:
// that is why a token's result does not depend on its batch.
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
inline constexpr int depth = 256;      // k's at a time: a panel and a tile's rows stay in L1
inline constexpr int block_rows = 96;  // rows that share one packing of B
inline constexpr int block_cols = 128;
inline constexpr int block_panels = block_cols / panel_width;
inline constexpr int left_stride = depth + 16;  // a tile's rows on different cache sets

/// What one task needs beside its operands, on its stack.
struct room {
  alignas(64) float left[block_rows * left_stride];  // A: (row, k)
  alignas(64) float right[depth * block_cols];       // B: (panel, k, column)
  alignas(64) float sums[block_rows * block_cols];   // (panel, row, column): the product
};

/// Rows of numbers that will be read next: a product fetches `length` of each while it computes.
struct ahead {
  static constexpr int most = 64;
  float const* rows[most];
  int count = 0;
  std::int64_t length = 0;

  /// The cache line at place k of every row.
  FINEGRAIN_INLINE void fetch(std::int64_t k) const {
    if (k < length)
      for (int i = 0; i < count; ++i) __builtin_prefetch(rows[i] + k, 0, 2);
  }
};
inline constexpr std::int64_t line = 16;  // floats in a cache line

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Rows of numbers by index: row i, or row index[i].
struct row_list {
  float const* data = nullptr;
  std::int64_t stride = 0;
  std::int32_t const* index = nullptr;

  row_list() = default;
  row_list(matrix<float const> m, std::int32_t const* index = nullptr)  // NOLINT(*-explicit*)
      : data(m.data), stride(m.stride), index(index) {}
  row_list(matrix<float> m) : row_list(matrix<float const>(m)) {}  // NOLINT(*-explicit*)
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
  /// Panel by panel: the weights are read once, in long rows, while tiles run in between.
  static constexpr bool whole_blocks = false;
  void pack(std::int64_t panel, std::int64_t, std::int64_t k0, std::int64_t count, float* to,
            ahead const& next) const {
    for (int j = 0; j < vectors; ++j) {
      float const* from[lanes];
      for (int i = 0; i < lanes; ++i) from[i] = row(panel, j * lanes + i) + k0;
      float* out = to + j * lanes;
      for (std::int64_t k = 0; k < count; k += lanes, out += lanes * panel_width) {
        if (k % line == 0 && j == 0) next.fetch(k);
        transpose(from, lanes, std::min<std::int64_t>(lanes, count - k), out, panel_width);
        for (auto& p : from) p += lanes;
      }
    }
  }
  /// Lists the part of a panel that pack would read.
  void list(std::int64_t panel, std::int64_t, std::int64_t k0, std::int64_t count,
            std::int64_t part, std::int64_t parts, ahead& next) const {
    next.length = count;
    next.count = 0;
    for (std::int64_t c = panel_width * part / parts; c < panel_width * (part + 1) / parts; ++c)
      next.rows[next.count++] = row(panel, static_cast<int>(c)) + k0;
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

  /// All panels of a block at once: a row of B gives each its part.
  static constexpr bool whole_blocks = true;
  void pack(std::int64_t first_panel, std::int64_t last, std::int64_t k0, std::int64_t count,
            float* to, ahead const&) const {
    for (std::int64_t k = 0; k < count; ++k) {
      float const* const from = row(k0 + k);
      for (std::int64_t p = first_panel; p < last; ++p) {
        float* const out = to + ((p - first_panel) * count + k) * panel_width;
        std::int64_t const n0 = p * panel_width;
        if (n0 + panel_width <= cols) {
          FINEGRAIN_UNROLL
          for (int j = 0; j < vectors; ++j) store(out + j * lanes, load(from + n0 + j * lanes));
        } else {
          for (std::int64_t c = 0; c < panel_width; ++c) out[c] = n0 + c < cols ? from[n0 + c] : 0;
        }
      }
    }
  }
  /// Lists a part of what pack would read.
  void list(std::int64_t first_panel, std::int64_t last, std::int64_t k0, std::int64_t count,
            std::int64_t part, std::int64_t parts, ahead& next) const {
    std::int64_t const begin = first_panel * panel_width;
    next.length = std::min(last * panel_width, cols) - begin;
    next.count = 0;
    for (std::int64_t k = count * part / parts;
         k < count * (part + 1) / parts && next.count < ahead::most; ++k)
      next.rows[next.count++] = row(k0 + k) + begin;
  }
};

/// sums(Rows, panel_width) = or, if not fresh, += a(Rows, count) . panel(count, panel_width).
template <int Rows>
void tile(float const* a, std::int64_t stride, std::int64_t count, float const* panel, bool fresh,
          float* sums, ahead const& next) {
  vec sum[Rows][vectors];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j)
      sum[r][j] = fresh ? vec{} : load(sums + r * panel_width + j * lanes);
  }
  auto step = [&](std::int64_t k) __attribute__((always_inline)) {
    vec b[vectors];
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) b[j] = load(panel + k * panel_width + j * lanes);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = broadcast(a[r * stride + k]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) add_product(x, b[j], sum[r][j]);
    }
  };
  std::int64_t k = 0;
  for (; k + line <= count; k += line) {
    next.fetch(k);
    for (std::int64_t i = 0; i < line; ++i) step(k + i);
  }
  for (; k < count; ++k) step(k);
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < vectors; ++j) store(sums + r * panel_width + j * lanes, sum[r][j]);
  }
}
inline void tile(int rows, float const* a, std::int64_t stride, std::int64_t count,
                 float const* panel, bool fresh, float* sums, ahead const& next = {}) {
  using function =
      void (*)(float const*, std::int64_t, std::int64_t, float const*, bool, float*, ahead const&);
  static constexpr function height[tile_rows] = {tile<1>, tile<2>, tile<3>,
                                                 tile<4>, tile<5>, tile<6>};
  height[rows - 1](a, stride, count, panel, fresh, sums, next);
}

/// Tiles of room.left(rows, count) on one packed panel, of nearly equal height. list(t, tiles, next)
/// says what the tile is to fetch meanwhile.
template <class List>
void multiply_panel(room& room, int rows, std::int64_t count, float const* panel, bool fresh,
                    float* sums, List&& list) {
  int const tiles = (rows + tile_rows - 1) / tile_rows;
  ahead next;
  for (int t = 0; t < tiles; ++t) {
    int const begin = rows * t / tiles, end = rows * (t + 1) / tiles;
    list(t, tiles, next);
    tile(end - begin, room.left + begin * left_stride, left_stride, count, panel, fresh,
         sums + begin * panel_width, next);
  }
}

/// room.sums = a(rows, K) . B(K, panels [first, last)), for up to block_rows rows and block_panels
/// panels. What is packed next is fetched while the tiles of the one before run.
template <class B>
void multiply(row_list a, int rows, std::int64_t K, B const& b, std::int64_t first,
              std::int64_t last, room& room) {
  for (std::int64_t k0 = 0; k0 < K; k0 += depth) {
    std::int64_t const count = std::min<std::int64_t>(depth, K - k0), k1 = k0 + count;
    std::int64_t const then = std::min<std::int64_t>(depth, K - k1);
    for (int r = 0; r < rows; ++r) std::copy_n(a[r] + k0, count, room.left + r * left_stride);
    if (B::whole_blocks) b.pack(first, last, k0, count, room.right, {});
    for (std::int64_t p = first; p < last; ++p) {
      float* const panel = room.right + (B::whole_blocks ? (p - first) * count * panel_width : 0);
      bool const more = p + 1 < last;
      ahead next;
      if (!B::whole_blocks) {
        if (more)
          b.list(p + 1, 0, k0, count, 0, 2, next);
        else
          b.list(first, 0, k1, then, 0, 2, next);
        b.pack(p, 0, k0, count, panel, next);
      }
      multiply_panel(
          room, rows, count, panel, k0 == 0, room.sums + (p - first) * rows * panel_width,
          [&](int t, int tiles, ahead& list) {
            if (B::whole_blocks)
              b.list(first, last, k1, then, (p - first) * tiles + t, (last - first) * tiles, list);
            else if (more)
              b.list(p + 1, 0, k0, count, tiles + t, 2 * tiles, list);
            else
              b.list(first, 0, k1, then, tiles + t, 2 * tiles, list);
          });
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
