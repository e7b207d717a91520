// update: an optimiser of your own, in AdamW's place, for all weights or some.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "../plan/batch.hpp"
#include "adamw.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One weight in one step, as an optimiser moves it.
template <class S>
struct weight_update {
  std::string_view name;  // "layers.0.mixture.experts.3.gate"
  finegrain::role role;
  matrix<S> weight;          // (rows, cols)
  matrix<S const> gradient;  // the same shape; `scale` times it is the mean over the step, clipped
  double scale;
  matrix<S> first, second;  // yours, and in checkpoints; 0 at first, or what AdamW kept in them
  std::int64_t step;        // from 1 on
  double rate;              // the learning rate, times schedule and group
  double decay;             // the part of a weight that decay takes from it in this step
};

/// An optimiser of your own, on the host (and as cuda_update_rule on the device). It is asked for each
/// weight that learns, for several at a time on different threads, and is not asked when the gradient
/// is not finite.
struct update_rule : own_rule {
  /// Moves the weight; or returns false, having changed nothing: then AdamW does. Throws nothing.
  virtual bool move(weight_update<float> const& w) const = 0;
  /// The same for networks in double, as the reference is.
  virtual bool move(weight_update<double> const& w) const = 0;
};

/// Moves the weights of these ranges that the rule moves; returns the others' ranges, in `left`.
template <class S>
std::span<trained_range const> update_by_rule(parallel threads, update_rule const& rule,
                                              adamw const& how, update_step<S> const& step,
                                              std::span<weight_entry const> entries,
                                              std::span<trained_range const> ranges,
                                              std::vector<trained_range>& left) {
  left.assign(ranges.begin(), ranges.end());
  auto const begins = [&](std::size_t i) {
    return i == 0 || ranges[i].entry != ranges[i - 1].entry;
  };
  for_ranges(threads, ranges, [&](trained_range const& r, std::size_t i) {
    if (!begins(i) || r.rate == 0) return;
    weight_entry const& e = entries[r.entry];
    auto const at = [&](auto* all) { return matrix(all + e.offset, e.rows, e.cols); };
    bool const moved = rule.move(weight_update<S>{.name = e.name,
                                                  .role = e.role,
                                                  .weight = at(step.weights),
                                                  .gradient = at(step.gradient),
                                                  .scale = step.scale,
                                                  .first = at(step.first),
                                                  .second = at(step.second),
                                                  .step = step.number,
                                                  .rate = step.rate * r.rate,
                                                  .decay = step.rate * how.weight_decay * r.decay});
    if (moved) left[i].count = 0;
  });
  for (std::size_t i = 0; i < left.size(); ++i)
    if (!begins(i) && left[i - 1].count == 0) left[i].count = 0;
  std::erase_if(left, [](trained_range const& r) { return r.count == 0; });
  return left;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
