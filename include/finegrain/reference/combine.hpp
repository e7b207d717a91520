// Combine: a token's output is the sum of expert outputs, each times a weight.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// y (T, D) += weight (T, 1) * out (T, D).
template <class T>
void combine_forward(basic_reference<T> const&, spec::input<T> weight, spec::input<T> out,
                     spec::output<T> y) {
  for (std::int64_t t = 0; t < out.rows; ++t)
    spec::add(weight(t, 0), out.row(t), y.row(t), out.cols);
}

/// dweight (T, 1) = dy . out and dout (T, D) = weight * dy, from dy (T, D).
template <class T>
void combine_backward(basic_reference<T> const&, spec::input<T> weight, spec::input<T> out,
                      spec::input<T> dy, spec::output<T> dweight, spec::output<T> dout) {
  for (std::int64_t t = 0; t < out.rows; ++t) {
    dweight(t, 0) = spec::dot(dy.row(t), out.row(t), out.cols);
    for (std::int64_t d = 0; d < out.cols; ++d) dout(t, d) = weight(t, 0) * dy(t, d);
  }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
