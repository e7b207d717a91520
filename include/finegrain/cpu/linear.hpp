// linear: y = x W^T, and its gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "executor.hpp"
#include "outer_product.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// W^T as a product reads it, of weights as they are stored or packed.
inline transposed across(cpu const& on, matrix<float const> w) { return on.copy.of(w); }
template <format F>
panels<F> const& across(cpu const&, panels<F> const& w) {
  return w;
}
/// f.operator()<F>() in the format of products with B: the executor's, or that of packed weights.
template <class B, class Function>
void in_products_of(cpu const& on, B const&, Function&& f) {
  in_products_of(on, f);
}
template <format F, class Function>
void in_products_of(cpu const&, panels<F> const&, Function&& f) {
  f.template operator()<panels<F>::products>();
}

/// Groups of columns that a task takes one of.
constexpr std::int64_t groups_of(std::int64_t cols) { return ceil_div(cols, block_cols); }
/// body(first row, rows, group) for blocks of rows and groups of columns.
template <class F>
void in_blocks(cpu const& on, std::int64_t rows, std::int64_t groups, F&& body) {
  std::int64_t const blocks = ceil_div(rows, block_rows);
  on.threads(blocks * groups, [&](std::int64_t task, int) {
    std::int64_t const block = task / groups, begin = rows * block / blocks;
    body(begin, rows * (block + 1) / blocks - begin, task % groups);
  });
}
/// y(rows, columns of a group) = or += a . B.
template <class B>
void multiply_group(cpu const& on, matrix<float const> a, B const& b, std::int64_t group,
                    matrix<float> y, gradients mode) {
  std::int64_t const first = group * block_panels, panels = ceil_div(y.cols, panel_width);
  in_products_of(on, b, [&]<format F>() {
    multiply_block<F>(a, a.cols, b, first, std::min<std::int64_t>(panels, first + block_panels), y,
                      mode);
  });
}

/// y (T, N) = or += x (T, K) . B: a task is a block of rows and columns.
template <class B>
void multiply_all(cpu const& on, matrix<float const> x, B const& b, matrix<float> y,
                  gradients mode) {
  in_blocks(on, y.rows, groups_of(y.cols),
            [&](std::int64_t begin, std::int64_t rows, std::int64_t group) {
              multiply_group(on, x.middle_rows(begin, rows), b, group, y.middle_rows(begin, rows),
                             mode);
            });
}

/// y += x.
inline void add_row(float const* x, std::int64_t cols, float* y) {
  for (std::int64_t c = 0; c < cols; ++c) y[c] += x[c];
}

}  // namespace simd

/// y (T, Out) = x (T, In) . w (Out, In)^T, of weights as they are stored, or packed.
template <class W>
inline void linear_forward(cpu const& on, matrix<float const> x, W const& w, matrix<float> y) {
  simd::multiply_all(on, x, simd::across(on, w), y, gradients::overwrite);
}

/// dw (Out, In) = dy (T, Out)^T . x (T, In) and dx (T, In) = dy . w, each stored or added. An
/// empty dx is not made.
FINEGRAIN_LAZY inline void linear_backward(cpu const& on, matrix<float const> x,
                                           matrix<float const> w, matrix<float const> dy,
                                           matrix<float> dw, gradients dw_mode, matrix<float> dx,
                                           gradients dx_mode) {
  simd::in_products_of(on, [&]<format F>() {
    on.threads(ceil_div(w.rows, simd::block_rows), [&](std::int64_t task, int) {
      std::int64_t const first = task * simd::block_rows;
      simd::outer_product<F>(
          dy, first, x, dy.rows,
          dw.middle_rows(first, std::min<std::int64_t>(simd::block_rows, w.rows - first)), dw_mode);
    });
  });
  if (dx.data) simd::multiply_all(on, dy, simd::straight{on.copy.of(w), w.cols}, dx, dx_mode);
}

/// y (T, Out) += bias (1, Out).
FINEGRAIN_LAZY inline void add_bias(cpu const& on, matrix<float const> bias, matrix<float> y) {
  detail::for_rows(on, y.rows,
                   [&](std::int64_t t, int) { simd::add_row(bias.data, y.cols, y.row(t)); });
}
/// dbias (1, Out) = the sum of dy (T, Out) over tokens, in their order, stored or added. Sums of 64
/// tokens are added in double.
FINEGRAIN_LAZY inline void bias_backward(cpu const& on, matrix<float const> dy, matrix<float> dbias,
                                         gradients mode) {
  constexpr std::int64_t most = 64, stretch = 64;  // columns of a task, rows of a sum
  on.threads(ceil_div(dy.cols, most), [&](std::int64_t task, int) {
    std::int64_t const first = task * most, cols = std::min(most, dy.cols - first);
    double sum[most] = {};
    for (std::int64_t begin = 0; begin < dy.rows; begin += stretch) {
      float part[most] = {};
      for (std::int64_t t = begin; t < std::min(dy.rows, begin + stretch); ++t)
        simd::add_row(dy.row(t) + first, cols, part);
      for (std::int64_t c = 0; c < cols; ++c) sum[c] += static_cast<double>(part[c]);
    }
    float* const to = dbias.data + first;
    for (std::int64_t c = 0; c < cols; ++c) {
      auto const made = static_cast<float>(sum[c]);
      to[c] = mode == gradients::accumulate ? to[c] + made : made;
    }
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
