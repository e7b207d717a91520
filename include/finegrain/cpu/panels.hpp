// panels: weights copied once into the order in which a product reads them, in any format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/buffer.hpp"
#include "executor.hpp"
#include "packed.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// `count` matrices W (rows, cols) for x W^T, or pairs of them, gate and up. A panel is two vectors'
/// rows of W, the pair's side by side, k by k, a unit of each. What is missing at the ends is 0.
template <format F>
struct panels {
  static constexpr finegrain::format number = F;
  float* data = nullptr;
  std::int64_t count = 0, rows = 0, cols = 0;
  int sides = 1;  // 2 for pairs

  constexpr panels() = default;
  constexpr panels(arena& memory, std::int64_t count, std::int64_t rows, std::int64_t cols,
                   int sides = 1)
      : count(count), rows(rows), cols(cols), sides(sides) {
    data = memory.take<float>(count * matrix_size());
  }

  static constexpr std::int64_t units(std::int64_t cols) {
    return ceil_div(cols, unit<F>::numbers);
  }
  /// Rows of each matrix in a panel, and panels of a matrix.
  constexpr std::int64_t width() const { return panel_width / sides; }
  constexpr std::int64_t size() const { return ceil_div(rows, width()); }
  float* panel(std::int64_t i, std::int64_t p) const {
    return data + i * matrix_size() + p * units(cols) * panel_width;
  }

  /// Copies the weights, count x (rows, cols) each.
  void fill(cpu const& on, stack<float const> first, stack<float const> second = {}) const {
    on.threads(count * size(), [&](std::int64_t task, int) {
      std::int64_t const i = task / size(), p = task % size();
      for (int j = 0; j < vectors; ++j) {
        matrix<float const> const w = (sides == 2 && j == 1 ? second : first)[i];
        pack_vector(w, p * width() + (sides == 1 ? j * lanes : 0), panel(i, p) + j * lanes);
      }
    });
  }

 private:
  constexpr std::int64_t matrix_size() const { return size() * units(cols) * panel_width; }

  /// Rows [first, first + lanes) of w.
  void pack_vector(matrix<float const> w, std::int64_t first, float* to) const {
    constexpr std::int64_t stretch = lanes * unit<F>::numbers;  // of k, for `lanes` units
    std::int64_t const n = std::clamp<std::int64_t>(rows - first, 0, lanes);
    for (std::int64_t k = 0; k < cols; k += stretch, to += lanes * panel_width) {
      std::int64_t const ks = std::min(stretch, cols - k);
      float block[lanes][lanes];
      float const* from[lanes];
      for (int r = 0; r < lanes; ++r) {
        from[r] = block[r];
        if (r < n) unit<F>::take(w.row(first + r) + k, ks, block[r]);
      }
      transpose(from, n, ceil_div(ks, unit<F>::numbers), to, panel_width);
    }
  }
};

/// The shape alone: the numbers are packed.
template <format F>
stack<float const> stacked(panels<F> const& p) {
  return {nullptr, p.count, p.rows, p.cols};
}

/// Rows of A in units, as tiles read them: block by block of `depth` units, in each a tile's rows.
/// `rows` of them share the room, which lies in the second-level cache.
template <format F>
class left_rows {
 public:
  /// Numbers of room that rows of K numbers want: for up to 112 rows, but a megabyte is enough.
  static constexpr std::int64_t size(std::int64_t K) {
    return std::max(tile_rows * row_size(K), std::min<std::int64_t>(112 * row_size(K), 1 << 18));
  }
  static constexpr int most(std::int64_t K) { return static_cast<int>(size(K) / row_size(K)); }

  left_rows(float* room, row_list a, int rows, std::int64_t K)
      : room_(room), rows_(rows), units_(panels<F>::units(K)) {
    for (int t = 0; t < tiles(); ++t)
      for (int r = top(t); r < top(t + 1); ++r)
        for (std::int64_t k = 0; k < units_; k += depth) {
          constexpr std::int64_t n = unit<F>::numbers;
          unit<F>::take(a[r] + k * n, std::min(depth * n, K - k * n),
                        tile_at(t) + (k / depth * height(t) + r - top(t)) * left_stride);
        }
  }

  /// put(first row, rows, sums) for the product with a panel, tile by tile, each a few rows of
  /// panel_width sums. Meanwhile `then`, the panel that comes next, is fetched.
  template <class Put>
  void multiply(float const* panel, float const* then, Put&& put) const {
    alignas(64) float sums[tile_rows * panel_width];
    ahead next;
    for (int t = 0; t < tiles(); ++t) {
      tile_ahead(t, then, next);
      tile<F>(height(t), tile_at(t), units_, panel, true, sums, next);
      put(top(t), height(t), static_cast<float const*>(sums));
    }
  }

 private:
  static constexpr std::int64_t row_size(std::int64_t K) {
    return ceil_div(panels<F>::units(K), depth) * left_stride;
  }
  int tiles() const { return (rows_ + tile_rows - 1) / tile_rows; }
  int top(int t) const { return rows_ * t / tiles(); }
  int height(int t) const { return top(t + 1) - top(t); }
  /// Shares out among the tiles what has to be fetched. One tile alone reads on at the pace of
  /// memory, and the machine fetches best by itself.
  void tile_ahead(int t, float const* then, ahead& next) const {
    next.count = 0;
    if (!then || tiles() == 1) return;
    next.length = units_;
    int const lines = (panel_width + tiles() - 1) / tiles();  // while k passes one
    next.pace = lines;
    for (; next.count < lines; ++next.count)
      next.rows[next.count] = then + (t * ceil_div(units_, line) * lines + next.count) * line;
  }
  float* tile_at(int t) const { return room_ + top(t) * ceil_div(units_, depth) * left_stride; }

  float* room_;
  int rows_;
  std::int64_t units_;
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
