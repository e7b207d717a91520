// Cross-entropy over logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "../base/math.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The sum over tokens of -log softmax(logits)[target], in nats; targets below 0 are left out.
/// dlogits (T, V) = scale * (softmax(logits) - onehot(target)), 0 for tokens that are left out; it
/// may be empty, and it may be the logits.
template <class T>
double cross_entropy(basic_reference<T> const&, spec::input<T> logits,
                     std::span<std::int32_t const> targets, double scale, spec::output<T> dlogits) {
  double total = 0;
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    std::int32_t const target = targets[static_cast<std::size_t>(t)];
    if (target < 0) {
      if (dlogits.data) std::fill_n(dlogits.row(t), dlogits.cols, T(0));
      continue;
    }
    T const* const row = logits.row(t);
    double const most = static_cast<double>(*std::max_element(row, row + logits.cols));
    double sum = 0;
    for (std::int64_t v = 0; v < logits.cols; ++v)
      sum += math::exp(static_cast<double>(row[v]) - most);
    total += math::log(sum) + most - static_cast<double>(row[target]);
    if (!dlogits.data) continue;
    for (std::int64_t v = 0; v < logits.cols; ++v) {
      double const p = math::exp(static_cast<double>(row[v]) - most) / sum;
      dlogits(t, v) = static_cast<T>(scale * (p - (v == target)));
    }
  }
  return total;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
