// observed: an expression whose passes something looks at. All else is as without it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "node.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// E, as row Row of what an Observer is told of (plan/observed.hpp). Runs is what a plan is sought for:
/// E, or E with observed parts. All else is E's.
template <class Observer, int Row, Expr E, Expr Runs = E>
struct observed : named {
  static constexpr auto expr = E{};

  template <class T>
  struct weights : finegrain::weights<E, T> {
    template <class Bind>
    constexpr explicit weights(Bind& bind) : finegrain::weights<E, T>(bind_part<E, T>(bind)) {}
  };
};

template <class E, class Observer>
inline constexpr bool is_observed = false;
template <class Observer, int Row, Expr E, Expr Runs>
inline constexpr bool is_observed<observed<Observer, Row, E, Runs>, Observer> = true;

}  // namespace finegrain::inline FINEGRAIN_ABI
