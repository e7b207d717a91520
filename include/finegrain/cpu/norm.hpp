// RMS norm: y = x / sqrt(mean(x^2) + epsilon) * gain, row by row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "../plan/plan.hpp"
#include "executor.hpp"
#include "simd.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

inline constexpr std::int64_t norm_rows = 16;  // a task's

/// The sum of f(at) over the vectors of some columns: at(p) is a vector's part of row p, with zeros behind
/// the last column.
template <class F>
FINEGRAIN_INLINE float sum_over(std::int64_t cols, F&& f) {
  vec sum{};
  std::int64_t c = 0;
  for (; c + lanes <= cols; c += lanes) sum += f([c](float const* p) { return load(p + c); });
  if (c < cols) sum += f([c, n = cols - c](float const* p) { return load_first(p + c, n); });
  return total(sum);
}

/// One row of the norm; returns 1 / sqrt(mean(x^2) + epsilon). One copy, as everything here that
/// several loops call: inlined twice it may differ in bits.
FINEGRAIN_LAZY FINEGRAIN_ONE_COPY inline float normalise(float const* x, float const* gain,
                                                         std::int64_t cols, float epsilon,
                                                         float* y) {
  float const squares = sum_over(cols, [x](auto at) { return at(x) * at(x); });
  float const r = 1.0f / math::sqrt(squares / static_cast<float>(cols) + epsilon);
  for (std::int64_t c = 0; c < cols; ++c) y[c] = x[c] * r * gain[c];
  return r;
}

/// One row of dx; `also` (D), if given, is added.
FINEGRAIN_LAZY FINEGRAIN_ONE_COPY inline void normalise_backward(float const* x, float const* gain,
                                                                 std::int64_t cols, float r,
                                                                 float const* dy, float* dx,
                                                                 float const* also) {
  float const dot = sum_over(cols, [&](auto at) { return at(dy) * at(gain) * at(x); });
  float const mean = dot * r / static_cast<float>(cols);
  for (std::int64_t c = 0; c < cols; ++c) dx[c] = r * (dy[c] * gain[c] - x[c] * r * mean);
  if (also)
    for (std::int64_t c = 0; c < cols; ++c) dx[c] += also[c];
}

/// dgain's columns [first, first + gain_cols), or what is left of them. Sums of 64 rows are added in
/// double: norms of heads have a row for each of a token's heads.
inline constexpr std::int64_t gain_cols = 32;
FINEGRAIN_ONE_COPY inline void gain_gradient(matrix<float const> x, float const* inverse_rms,
                                             matrix<float const> dy, std::int64_t first,
                                             matrix<float> dgain, gradients mode) {
  std::int64_t const n = std::min(gain_cols, x.cols - first);
  constexpr std::int64_t stretch = 64;
  double sum[gain_cols] = {};
  for (std::int64_t begin = 0; begin < x.rows; begin += stretch) {
    float part[gain_cols] = {};
    for (std::int64_t t = begin; t < std::min(x.rows, begin + stretch); ++t) {
      float const r = inverse_rms[t];
      float const *const from = x.row(t) + first, *const d = dy.row(t) + first;
      for (std::int64_t c = 0; c < n; ++c) part[c] += d[c] * (from[c] * r);
    }
    for (std::int64_t c = 0; c < n; ++c) sum[c] += static_cast<double>(part[c]);
  }
  float* const to = dgain.data + first;
  for (std::int64_t c = 0; c < n; ++c) {
    auto const made = static_cast<float>(sum[c]);
    to[c] = mode == gradients::accumulate ? to[c] + made : made;
  }
}

}  // namespace simd

/// y (T, D) from x (T, D) and gain (1, D). Leaves 1 / sqrt(mean(x^2) + epsilon) of each row.
FINEGRAIN_LAZY inline void rmsnorm_forward(cpu const& on, matrix<float const> x,
                                           matrix<float const> gain, float epsilon, matrix<float> y,
                                           float* inverse_rms) {
  detail::for_rows<simd::norm_rows>(on, x.rows, [&](std::int64_t t, int) {
    inverse_rms[t] = simd::normalise(x.row(t), gain.data, x.cols, epsilon, y.row(t));
  });
}

/// dx (T, D), and dgain (1, D), from dy (T, D). With n = x r and g = dy gain:
/// dgain = sum over rows of dy n, and dx = r (g - n mean(g n)). `also` (T, D), if given, is added
/// to dx: the gradient that goes round the norm.
FINEGRAIN_LAZY inline void rmsnorm_backward(cpu const& on, matrix<float const> x,
                                            matrix<float const> gain, float const* inverse_rms,
                                            matrix<float const> dy, matrix<float> dgain,
                                            gradients mode, matrix<float> dx,
                                            matrix<float const> also = {}) {
  using namespace simd;
  on.threads(ceil_div(x.cols, gain_cols), [&](std::int64_t task, int) {
    gain_gradient(x, inverse_rms, dy, task * gain_cols, dgain, mode);
  });
  finegrain::detail::for_rows<norm_rows>(on, x.rows, [&](std::int64_t t, int) {
    normalise_backward(x.row(t), gain.data, x.cols, inverse_rms[t], dy.row(t), dx.row(t),
                       also.data ? also.row(t) : nullptr);
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
