// linear: y = x W^T, and its gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "executor.hpp"
#include "product.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// y (T, N) = or += rows (T, K) . B: a task is a block of rows and columns.
template <class B>
void multiply_all(cpu const& on, matrix<float const> x, B const& b, matrix<float> y,
                  gradients mode) {
  std::int64_t const blocks = ceil_div(y.rows, block_rows);
  std::int64_t const groups = ceil_div(b.panels(), block_panels);
  in_products_of(on, [&]<format F>() {
    on.threads(blocks * groups, [&](std::int64_t task, int) {
      std::int64_t const block = task / groups, first = task % groups * block_panels;
      std::int64_t const begin = y.rows * block / blocks, end = y.rows * (block + 1) / blocks;
      multiply_block<F>(row_list(x.middle_rows(begin, end - begin)), x.cols, b, first,
                        std::min(b.panels(), first + block_panels),
                        y.middle_rows(begin, end - begin), mode);
    });
  });
}

}  // namespace simd

/// y (T, Out) = x (T, In) . w (Out, In)^T.
inline void linear_forward(cpu const& on, matrix<float const> x, matrix<float const> w,
                           matrix<float> y) {
  simd::multiply_all(on, x, simd::transposed(on.copy.of(w)), y, gradients::overwrite);
}

/// dw (Out, In) = dy (T, Out)^T . x (T, In) and dx (T, In) = dy . w, each stored or added. An
/// empty dx is not made.
inline void linear_backward(cpu const& on, matrix<float const> x, matrix<float const> w,
                            matrix<float const> dy, matrix<float> dw, gradients dw_mode,
                            matrix<float> dx, gradients dx_mode) {
  simd::in_products_of(on, [&]<format F>() {
    on.threads(simd::ceil_div(w.rows, simd::block_rows), [&](std::int64_t task, int) {
      std::int64_t const first = task * simd::block_rows;
      simd::outer_product<F>(
          dy, first, x, dy.rows,
          dw.middle_rows(first, std::min<std::int64_t>(simd::block_rows, w.rows - first)), dw_mode);
    });
  });
  if (dx.data) simd::multiply_all(on, dy, simd::straight{on.copy.of(w), w.cols}, dx, dx_mode);
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
