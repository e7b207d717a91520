// ladder: a list of configs as a type, so that an ablation's budget is proved before it runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "budget.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A config as an argument: a lambda takes it as `[&]<config C>(at<C>) { ... }`.
template <config C>
struct at {
  static constexpr config value = C;
};

/// The rungs of an ablation, in order.
template <config... Cs>
struct ladder {
  static_assert(sizeof...(Cs) >= 1, "ladder: there must be at least one config");
  static_assert((valid<Cs> && ...));
  static constexpr int size = sizeof...(Cs);
};

/// Calls f(at<C>{}) for each config of a ladder, in order.
template <config... Cs, class F>
constexpr void for_each(ladder<Cs...>, F&& f) {
  (static_cast<void>(f(at<Cs>{})), ...);
}

/// Whether all configs have equally many expert parameters, in total and active in a token: what
/// the paper's comparisons hold fixed. Router, selection bias and shared gate are left out.
template <config First, config... Rest>
constexpr bool same_budget(ladder<First, Rest...>) {
  return ((expert_parameters(Rest) == expert_parameters(First) &&
           active_expert_parameters(Rest) == active_expert_parameters(First)) &&
          ...);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
