// RMS norm: y = x / sqrt(mean(x^2) + epsilon) * gain, row by row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// y (T, D) from x (T, D) and gain (1, D). Leaves 1 / sqrt(mean(x^2) + epsilon) of each row.
template <class T>
void rmsnorm_forward(basic_reference<T> const&, spec::input<T> x, spec::input<T> gain,
                     std::type_identity_t<T> epsilon, spec::output<T> y, T* inverse_rms) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    T const mean_square = spec::dot(x.row(t), x.row(t), x.cols) / T(x.cols);
    T const r = inverse_rms[t] = 1 / math::sqrt(mean_square + epsilon);
    for (std::int64_t d = 0; d < x.cols; ++d) y(t, d) = x(t, d) * r * gain(0, d);
  }
}

/// dx (T, D), and dgain (1, D), from dy (T, D). With n = x r and g = dy gain:
/// dgain = sum over rows of dy n, and dx = r (g - n mean(g n)).
template <class T>
void rmsnorm_backward(basic_reference<T> const&, spec::input<T> x, spec::input<T> gain,
                      std::type_identity_t<T> const* inverse_rms, spec::input<T> dy,
                      spec::output<T> dgain, gradients mode, spec::output<T> dx) {
  spec::begin(mode, dgain);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    T const r = inverse_rms[t];
    T mean = 0;
    for (std::int64_t d = 0; d < x.cols; ++d) {
      T const n = x(t, d) * r;
      dgain(0, d) += dy(t, d) * n;
      mean += dy(t, d) * gain(0, d) * n / T(x.cols);
    }
    for (std::int64_t d = 0; d < x.cols; ++d)
      dx(t, d) = r * (dy(t, d) * gain(0, d) - x(t, d) * r * mean);
  }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
