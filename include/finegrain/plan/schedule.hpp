// schedule: the learning rate over a run, as a factor of its peak.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How the learning rate falls after warm-up: not at all (DeepSeek-V3's first phase), in two steps
/// (DeepSeekMoE: times 0.316 at 80 % of the run and again at 90 %), or along a cosine.
enum class decay { none, steps, cosine };

/// A linear rise over `warmup` steps to 1, then a fall over the rest of `steps`.
///
///   schedule{.warmup = 2000, .steps = 100'000, .decay = decay::steps}
struct schedule {
  std::int64_t warmup = 0;
  std::int64_t steps = 0;  // of the whole run, warm-up included; not needed without decay
  finegrain::decay decay = finegrain::decay::none;
  double last = 0.1;  // where the cosine ends, at `steps`

  /// The factor of a step, counted from 0.
  FINEGRAIN_HD double at(std::int64_t step) const {
    if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
    switch (decay) {
      case finegrain::decay::none: break;
      case finegrain::decay::steps:
        return 10 * step < 8 * steps ? 1 : 10 * step < 9 * steps ? 0.316 : 0.316 * 0.316;
      case finegrain::decay::cosine: {
        if (step >= steps) return last;
        double const along =
            static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
        return last + (1 - last) * (1 + std::cos(std::numbers::pi * along)) / 2;
      }
    }
    return 1;
  }

  friend bool operator==(schedule const&, schedule const&) = default;
};

/// The most steps that can be scheduled, or counted: `at` counts in tenths.
inline constexpr std::int64_t most_steps = INT64_MAX / 10;

/// The schedule itself; throws invalid_argument when warm-up or fall has no length, or no end.
inline schedule const& checked(schedule const& s) {
  if (s.warmup < 0)
    throw invalid_argument("a schedule cannot warm up over %lld steps", detail::shown(s.warmup));
  if (s.decay != decay::none && s.steps <= s.warmup)
    throw invalid_argument("a schedule that decays needs more steps (%lld) than warm-up (%lld)",
                           detail::shown(s.steps), detail::shown(s.warmup));
  if (s.steps > most_steps)
    throw invalid_argument("a schedule cannot decay over %lld steps", detail::shown(s.steps));
  if (!(s.last >= 0) || s.last > 1e30)
    throw invalid_argument("a cosine ends at a factor of at least 0, not at %g", s.last);
  return s;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
