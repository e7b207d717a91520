// operands: what a product reads, how it is copied to where it stays in a cache, and the room for it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/matrix.hpp"
#include "simd.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

inline constexpr int vectors = 2;                           // side by side in a tile of a product
inline constexpr int panel_width = vectors * lanes;         // columns of a packed panel
inline constexpr int tile_rows = registers == 32 ? 14 : 6;  // sums, B and one of A fill registers
inline constexpr int depth = 256;      // k's at a time: a panel and a tile's rows stay in L1
inline constexpr int block_rows = 96;  // rows that share one packing of B
inline constexpr int half_rows = block_rows / 2;
inline constexpr int block_cols = 128;
inline constexpr int block_panels = block_cols / panel_width;
inline constexpr int left_stride = depth + 16;  // a tile's rows on different cache sets

inline constexpr int right_size =
    block_cols * (depth > half_rows * lanes ? depth : half_rows * lanes);

/// What one task needs beside its operands, on its stack.
struct room {
  alignas(64) float left[block_rows * left_stride];  // A: (row, k)
  alignas(64) float right[right_size];               // B: (panel, k, column), or lanes' sums
  alignas(64) float sums[block_rows * block_cols];   // (panel, row, column): the product
};

/// Numbers that will be read next, which a product fetches while it computes: at each cache line of
/// k that it passes, one line of every row, `pace` lines on from the last.
struct ahead {
  static constexpr int most = 64;
  float const* rows[most];
  int count = 0;
  std::int64_t length = 0;  // of k: behind it, nothing more
  std::int64_t pace = 1;

  FINEGRAIN_INLINE void fetch(std::int64_t k) const {
    if (k < length)
      for (int i = 0; i < count; ++i) __builtin_prefetch(rows[i] + k * pace, 0, 2);
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
  /// The list without its first rows.
  row_list from(std::int64_t first) const {
    row_list rest = *this;
    if (index)
      rest.index += first;
    else
      rest.data += first * stride;
    return rest;
  }
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
        FINEGRAIN_UNROLL
        for (int j = 0; j < vectors; ++j) {
          std::int64_t const n = std::clamp<std::int64_t>(cols - n0 - j * lanes, 0, lanes);
          store(out + j * lanes,
                n == lanes ? load(from + n0 + j * lanes) : load_first(from + n0 + j * lanes, n));
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

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
