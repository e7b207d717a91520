// adamw: Adam with decoupled weight decay, and the gradient's norm, over one array of weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "../base/parallel.hpp"
#include "../plan/weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// AdamW [Loshchilov, Hutter 2019] with DeepSeekMoE's numbers. Projections decay, gains do not;
/// selection biases are not trained by gradient and stay as they are.
struct adamw {
  double lr = 3e-4;
  double beta1 = 0.9, beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
};

/// The numbers themselves; throws invalid_argument when they make no sense.
inline adamw const& checked(adamw const& a) {
  auto const below_one = [](double beta) { return beta >= 0 && beta < 1; };
  if (!(a.lr >= 0) || !below_one(a.beta1) || !below_one(a.beta2) || !(a.epsilon > 0) ||
      !(a.weight_decay >= 0))
    throw invalid_argument("adamw needs lr, weight_decay >= 0, 0 <= beta1, beta2 < 1, epsilon > 0");
  return a;
}

/// Trained weights that lie side by side and are treated alike: the work of one task. The ranges
/// depend on the weights alone, so that results do not depend on the number of threads.
struct trained_range {
  std::int64_t offset = 0, count = 0;
  bool decays = false;
};

/// The trained weights of a network, in pieces of a size that suits a cache.
inline std::vector<trained_range> trained_ranges(std::vector<weight_entry> const& entries) {
  constexpr std::int64_t most = 16384;
  std::vector<trained_range> ranges;
  for (weight_entry const& entry : entries) {
    if (entry.role == role::selection_bias) continue;
    std::int64_t const size = entry.rows * entry.cols;
    for (std::int64_t at = 0; at < size; at += most)
      ranges.push_back(
          {entry.offset + at, std::min(most, size - at), entry.role == role::projection});
  }
  return ranges;
}

/// The Euclidean norm of a gradient, summed in double and always in the same order. `partial` has
/// room for one number a range.
template <class S>
double gradient_norm(parallel threads, std::span<trained_range const> ranges, S const* g,
                     double* partial) {
  constexpr std::int64_t lanes = 8;
  threads(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t task, int) {
    trained_range const range = ranges[static_cast<std::size_t>(task)];
    S const* const at = g + range.offset;
    double sums[lanes] = {};
    for (std::int64_t i = 0; i < range.count; i += lanes)
      for (std::int64_t lane = 0; lane < std::min(lanes, range.count - i); ++lane) {
        double const x = static_cast<double>(at[i + lane]);
        sums[lane] += x * x;
      }
    double sum = 0;
    for (double s : sums) sum += s;
    partial[task] = sum;
  });
  double total = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) total += partial[i];
  return std::sqrt(total);
}

/// One step of AdamW, the step-th from 1 on, at a learning rate: w, and its moments m and v, from
/// the gradient times `scale`.
template <class S>
void adamw_update(parallel threads, adamw const& how, double rate, std::int64_t step, double scale,
                  std::span<trained_range const> ranges, S const* g, S* w, S* m, S* v) {
  double const t = static_cast<double>(step);
  S const beta1 = S(how.beta1), beta2 = S(how.beta2), epsilon = S(how.epsilon), factor = S(scale);
  S const rest1 = S(1 - how.beta1), rest2 = S(1 - how.beta2);
  S const pace = S(rate / (1 - std::pow(how.beta1, t)));
  S const unbias = S(1 / std::sqrt(1 - std::pow(how.beta2, t)));
  threads(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t task, int) {
    trained_range const range = ranges[static_cast<std::size_t>(task)];
    S const keep = range.decays ? S(1 - rate * how.weight_decay) : S(1);
    for (std::int64_t i = range.offset; i < range.offset + range.count; ++i) {
      S const x = factor * g[i];
      m[i] = beta1 * m[i] + rest1 * x;
      v[i] = beta2 * v[i] + rest2 * x * x;
      w[i] = keep * w[i] - pace * m[i] / (std::sqrt(v[i]) * unbias + epsilon);
    }
  });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
