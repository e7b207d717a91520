// clocked: an expression that is timed when it runs. All else is as without it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "node.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// E, whose passes are timed, as row Row of the batch's timings. Runs is what a plan is sought for: E,
/// or E with clocks on its parts, which `timed` (plan/timed.hpp) makes. All else is E's.
template <int Row, Expr E, Expr Runs = E>
struct clocked : named {
  static constexpr auto expr = E{};

  template <class T>
  struct weights : finegrain::weights<E, T> {
    template <class Bind>
    constexpr explicit weights(Bind& bind) : finegrain::weights<E, T>(bind_part<E, T>(bind)) {}
  };
};

template <class E>
inline constexpr bool is_clocked = false;
template <int Row, Expr E, Expr Runs>
inline constexpr bool is_clocked<clocked<Row, E, Runs>> = true;

}  // namespace finegrain::inline FINEGRAIN_ABI
