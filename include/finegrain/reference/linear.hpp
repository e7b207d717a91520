// The linear map: y = x W^T.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// y (T, Out) from x (T, In) and weight (Out, In).
template <class T>
void linear_forward(basic_reference<T> const&, spec::input<T> x, spec::input<T> weight,
                    spec::output<T> y) {
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t o = 0; o < weight.rows; ++o)
      y(t, o) = spec::dot(x.row(t), weight.row(o), x.cols);
}

/// dweight (Out, In) = dy^T x and dx (T, In) = dy W, from dy (T, Out). Each is overwritten or
/// added to.
template <class T>
void linear_backward(basic_reference<T> const&, spec::input<T> x, spec::input<T> weight,
                     spec::input<T> dy, spec::output<T> dweight, gradients dweight_mode,
                     spec::output<T> dx, gradients dx_mode) {
  spec::begin(dweight_mode, dweight);
  spec::begin(dx_mode, dx);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t o = 0; o < weight.rows; ++o) {
      spec::add(dy(t, o), x.row(t), dweight.row(o), x.cols);
      spec::add(dy(t, o), weight.row(o), dx.row(t), x.cols);
    }
}

/// y (T, Out) += bias (1, Out), and dbias (1, Out) = the sum of dy (T, Out) over tokens.
template <class T>
void add_bias(basic_reference<T> const&, spec::input<T> bias, spec::output<T> y) {
  for (std::int64_t t = 0; t < y.rows; ++t) spec::add(T(1), bias.data, y.row(t), y.cols);
}
template <class T>
void bias_backward(basic_reference<T> const&, spec::input<T> dy, spec::output<T> dbias,
                   gradients mode) {
  spec::begin(mode, dbias);
  for (std::int64_t t = 0; t < dy.rows; ++t) spec::add(T(1), dy.row(t), dbias.data, dy.cols);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
