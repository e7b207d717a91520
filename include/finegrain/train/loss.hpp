// Losses over what a network makes: squared error here, cross-entropy in each executor's loss.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "../base/matrix.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

// Each executor has, in its loss.hpp (cuda in stages.hpp):
//
//   double cross_entropy(on, matrix<S const> logits, std::span<std::int32_t const> targets,
//                        double scale, matrix<S> dlogits);
//
// the sum over tokens of -log softmax(logits)[target] in nats, where targets below 0 are left out;
// and dlogits = scale * its gradient, unless dlogits is empty. It may be the logits themselves. A
// loss of your own that has it as a part takes the targets of its own tokens,
//
//   cross_entropy(on, y, targets.subspan(first, y.rows), 1, dy)
//
// and a scale that is the part's weight, and multiplies what is returned by it too. It overwrites dy,
// as squared_error does: such a part comes first, and is the only one of its rows. On cuda the sum is
// added on the device, unweighted, and what is returned is 0.

/// Sum of (y - target)^2 over all numbers, in double and always in the same order;
/// dy = scale * its gradient, unless dy is empty. It may be y itself.
template <class X, class S = typename X::scalar>
double squared_error(X const& on, matrix<S const> y, matrix<S const> target, double scale,
                     matrix<S> dy) {
  constexpr std::int64_t parts = 64;
  double sums[parts] = {};
  on.threads(parts, [&](std::int64_t part, int) {
    for (std::int64_t t = y.rows * part / parts; t < y.rows * (part + 1) / parts; ++t)
      for (std::int64_t c = 0; c < y.cols; ++c) {
        double const off = static_cast<double>(y(t, c)) - static_cast<double>(target(t, c));
        sums[part] += off * off;
        if (dy.data) dy(t, c) = static_cast<S>(scale * 2 * off);
      }
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

/// m = 0.
template <class X, class S = typename X::scalar>
void clear_rows(X const& on, matrix<S> m) {
  constexpr std::int64_t parts = 64;
  on.threads(parts, [&](std::int64_t part, int) {
    for (std::int64_t t = m.rows * part / parts; t < m.rows * (part + 1) / parts; ++t)
      std::fill_n(m.row(t), m.cols, S(0));
  });
}

/// Throws invalid_argument when there is not one target for each token.
inline void check_targets(std::span<std::int32_t const> targets, std::int64_t tokens) {
  if (static_cast<std::int64_t>(targets.size()) != tokens)
    throw invalid_argument("the batch has %lld tokens and %lld targets", detail::shown(tokens),
                           detail::shown(targets.size()));
}
/// How many targets count: those that are not below 0. Throws invalid_argument when there is not
/// one for each token, or one is not below `classes`.
inline std::int64_t count_targets(std::span<std::int32_t const> targets, std::int64_t tokens,
                                  int classes) {
  check_targets(targets, tokens);
  std::int64_t count = 0;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] >= classes)
      throw invalid_argument("target %lld is %d; the network tells %d classes apart",
                             detail::shown(t), targets[t], classes);
    count += targets[t] >= 0;
  }
  return count;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
