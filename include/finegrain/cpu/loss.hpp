// Cross-entropy over logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "../base/math.hpp"
#include "../base/matrix.hpp"
#include "executor.hpp"
#include "simd.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// The largest number, whatever the order.
inline float largest_of(float const* x, std::int64_t cols) {
  float most = x[0];
  std::int64_t c = 0;
  if (cols >= lanes) {
    vec m = load(x);
    for (c = lanes; c + lanes <= cols; c += lanes) m = larger(m, load(x + c));
    most = largest(m);
  }
  for (; c < cols; ++c) most = std::max(most, x[c]);
  return most;
}

/// The sum of e^(x - most), vector by vector; they go to `out`, which may be x, if given. Sums of
/// 512 numbers are added in double.
FINEGRAIN_LAZY inline double exponentials(float const* x, std::int64_t cols, float most,
                                          float* out) {
  constexpr std::int64_t stretch = 512;
  double sum = 0;
  for (std::int64_t begin = 0; begin < cols; begin += stretch) {
    std::int64_t const end = std::min(cols, begin + stretch);
    vec part{};
    std::int64_t c = begin;
    for (; c + lanes <= end; c += lanes) {
      vec const e = exp(load(x + c) - most);
      part += e;
      if (out) store(out + c, e);
    }
    sum += static_cast<double>(total(part));
    if (c < end) {
      vec const e = exp(load_first(x + c, end - c) - most);
      for (std::int64_t i = 0; i < end - c; ++i) sum += static_cast<double>(e[i]);
      if (out) store_first(out + c, e, end - c);
    }
  }
  return sum;
}

inline double token_loss(float const* x, std::int64_t cols, std::int32_t target, double scale,
                         float* dx) {
  float const most = largest_of(x, cols), right = x[target];  // dx may be x
  double const sum = exponentials(x, cols, most, dx);
  if (dx) {
    float const factor = static_cast<float>(scale / sum);
    for (std::int64_t c = 0; c < cols; ++c) dx[c] *= factor;
    dx[target] -= static_cast<float>(scale);
  }
  return math::log(sum) + static_cast<double>(most) - static_cast<double>(right);
}

}  // namespace simd

/// The sum over tokens of -log softmax(logits)[target], in nats; targets below 0 are left out.
/// dlogits (T, V) = scale * (softmax(logits) - onehot(target)), 0 for tokens that are left out; it
/// may be empty, and it may be the logits.
FINEGRAIN_LAZY inline double cross_entropy(cpu const& on, matrix<float const> logits,
                                           std::span<std::int32_t const> targets, double scale,
                                           matrix<float> dlogits) {
  constexpr std::int64_t parts = 64;  // partial sums, whatever the threads
  double sums[parts] = {};
  on.threads(parts, [&](std::int64_t part, int) {
    double sum = 0;
    for (std::int64_t t = logits.rows * part / parts; t < logits.rows * (part + 1) / parts; ++t) {
      std::int32_t const target = targets[static_cast<std::size_t>(t)];
      float* const to = dlogits.data ? dlogits.row(t) : nullptr;
      if (target >= 0)
        sum += simd::token_loss(logits.row(t), logits.cols, target, scale, to);
      else if (to)
        std::fill_n(to, logits.cols, 0.0f);
    }
    sums[part] = sum;
  });
  double total = 0;
  for (double const sum : sums) total += sum;
  return total;
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
