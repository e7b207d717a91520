// timed: an expression whose run writes down how long each of its nodes took.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "observed.hpp"
#include "stopwatch.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Nodes are those that have a line in `explain`: what X has one plan for is one.
template <class X>
struct by_plans {
  template <Expr E>
  static constexpr bool opens = composes<X, E>;
};

}  // namespace detail

/// Expression E with clocks on the nodes that executor X has plans for; the same weights, memory and
/// bits. A batch's `times` says where a pass adds what it took; without, nothing is timed.
///
///   network<timed<model, cpu>, cpu> net;
///   timings times;
///   trainer{net}.step({.tokens = T, .ids = ids, .times = &times}, targets);
///   explain<model, cpu>(net.extent_of(T, true), limits, times);
///
/// On cuda a pass with times waits for the device at its end. One that is recorded takes none.
template <Expr E, class X>
using timed = detail::observed_nodes<timings, detail::by_plans<X>, E>;

/// A node's own plan between two looks at a clock.
template <class X>
struct observer<timings, X> {
  using S = typename X::scalar;

  template <class Run>
  static void forward(pass<X> const& p, std::size_t row, matrix<S const>, Run const& run) {
    auto const begun = stopwatch<X>::begin(p, row);
    run();
    stopwatch<X>::end(p, row, &timings::row::forward, begun);
  }
  template <class Run>
  static void backward(pass<X> const& p, std::size_t row, matrix<S const>, Run const& run) {
    auto const begun = stopwatch<X>::begin(p, row);
    run();
    stopwatch<X>::end(p, row, &timings::row::backward, begun);
  }
  template <Loss<X> L, class Run>
  static double scored(pass<X> const& p, std::size_t row, L const& loss, Run const& run) {
    auto const begun = stopwatch<X>::begin(p, row);
    double const made = run(loss);
    stopwatch<X>::end(p, row, p.extent.training ? &timings::row::both : &timings::row::forward,
                      begun);
    return made;
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
