// timed: an expression whose run writes down how long each of its nodes took.
//
// Every node that an executor has a plan for gets a name whose plan is the node's own between two
// looks at a clock. It is another expression, so that those without clocks are compiled as ever.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../expr/clocked.hpp"
#include "scored.hpp"
#include "stopwatch.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// E with clocks on the nodes that have a line in `explain`: rows Row, Row + 1, ... What X has one plan
/// for has one clock.
template <class X, Expr E, int Row>
struct clocks {
  using type = clocked<Row, E>;
  static constexpr int next = Row + 1;
};
template <class X, Expr A, Expr B, int Row>  // a sequence has no line of its own
requires(composes<X, then<A, B>>) struct clocks<X, then<A, B>, Row> {
  using a = clocks<X, A, Row>;
  using b = clocks<X, B, a::next>;
  using type = then<typename a::type, typename b::type>;
  static constexpr int next = b::next;
};
template <class X, int Row, Expr E, template <Expr, Expr> class Node, Expr A, Expr B>
struct clocks_of_two {
  using a = clocks<X, A, Row + 1>;
  using b = clocks<X, B, a::next>;
  using type = clocked<Row, E, Node<typename a::type, typename b::type>>;
  static constexpr int next = b::next;
};
template <class X, Expr A, Expr B, int Row>
requires(composes<X, sum<A, B>>) struct clocks<X, sum<A, B>, Row>
    : clocks_of_two<X, Row, sum<A, B>, sum, A, B> {
};
template <class X, Expr A, Expr B, int Row>
requires(composes<X, blended<A, B>>) struct clocks<X, blended<A, B>, Row>
    : clocks_of_two<X, Row, blended<A, B>, blended, A, B> {
};
template <class X, Expr A, int Row>
requires(composes<X, residual_of<A>>) struct clocks<X, residual_of<A>, Row> {
  using a = clocks<X, A, Row + 1>;
  using type = clocked<Row, residual_of<A>, residual_of<typename a::type>>;
  static constexpr int next = a::next;
};
template <class X, int N, Expr A, int Row>
requires(composes<X, repeated<N, A>>) struct clocks<X, repeated<N, A>, Row> {
  using a = clocks<X, A, Row + 1>;
  using type = clocked<Row, repeated<N, A>, repeated<N, typename a::type>>;
  static constexpr int next = a::next;
};
template <class X, Named E, int Row>
requires(composes<X, E>) struct clocks<X, E, Row> {
  using a = clocks<X, inner_t<E>, Row + 1>;
  using type = clocked<Row, E, typename a::type>;
  static constexpr int next = a::next;
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
using timed = clocked<0, E, typename detail::clocks<X, E, 1>::type>;

template <class X, int Row, Expr E, Expr Runs>
struct plan<X, clocked<Row, E, Runs>> {
  using S = typename X::scalar;
  using whole = plan<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;
  static constexpr bool any_rows = AnyRows<whole>, picks_rows = PicksRows<whole>;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    auto const begun = stopwatch<X>::begin(p, Row);
    whole::forward(p, w, s, x, y);
    stopwatch<X>::end(p, Row, &timings::row::forward, begun);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    auto const begun = stopwatch<X>::begin(p, Row);
    whole::backward(p, w, s, x, dy, dw, dx);
    stopwatch<X>::end(p, Row, &timings::row::backward, begun);
  }
};

template <class X, int Row, Expr E, Expr Runs>
struct scored<X, clocked<Row, E, Runs>> {
  using S = typename X::scalar;
  using whole = scored<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;
  static constexpr std::int64_t rows(std::int64_t tokens) { return whole::rows(tokens); }

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const& s, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    auto const begun = stopwatch<X>::begin(p, Row);
    double const made = whole::run(p, w, s, x, loss, dw, dx);
    stopwatch<X>::end(p, Row, p.extent.training ? &timings::row::both : &timings::row::forward,
                      begun);
    return made;
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
