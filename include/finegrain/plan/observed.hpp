// Plans of observed expressions: the nodes that an executor has plans for, with something done around
// each. It is another expression, so that those without are compiled as ever.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../expr/observed.hpp"
#include "scored.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What an Observer does around a node's pass on X, which is `run`; row 0 is around all others:
///
///   static void forward(pass<X> const&, std::size_t row, matrix<S const> y, Run const& run);
///   static void backward(pass<X> const&, std::size_t row, matrix<S const> dy, Run const& run);
///   static double scored(pass<X> const&, std::size_t row, Loss const&, Run const& run);
///
/// y has its numbers when run() has returned; scored returns what run(loss) does, for that loss or one
/// around it.
template <class Observer, class X>
struct observer;

namespace detail {

/// E with observed nodes, in rows Row, Row + 1, ...: a line of `explain` each. Nodes are the parts of
/// what How opens, a composed one above all; anything else is one node.
template <class Observer, class How, Expr E, int Row>
struct observe {
  using type = observed<Observer, Row, E>;
  static constexpr int next = Row + 1;
};
template <class Observer, class How, Expr A, Expr B, int Row>  // a sequence has no line of its own
requires(How::template opens<then<A, B>>) struct observe<Observer, How, then<A, B>, Row> {
  using a = observe<Observer, How, A, Row>;
  using b = observe<Observer, How, B, a::next>;
  using type = then<typename a::type, typename b::type>;
  static constexpr int next = b::next;
};
template <class Observer, class How, template <Expr, Expr> class Node, Expr A, Expr B, int Row>
requires(How::template opens<Node<A, B>> &&
         !Named<Node<A, B>>) struct observe<Observer, How, Node<A, B>, Row> {
  using a = observe<Observer, How, A, Row + 1>;
  using b = observe<Observer, How, B, a::next>;
  using type = observed<Observer, Row, Node<A, B>, Node<typename a::type, typename b::type>>;
  static constexpr int next = b::next;
};
template <class Observer, class How, Expr A, int Row>
requires(How::template opens<residual_of<A>>) struct observe<Observer, How, residual_of<A>, Row> {
  using a = observe<Observer, How, A, Row + 1>;
  using type = observed<Observer, Row, residual_of<A>, residual_of<typename a::type>>;
  static constexpr int next = a::next;
};
template <class Observer, class How, int N, Expr A, int Row>
requires(How::template opens<repeated<N, A>>) struct observe<Observer, How, repeated<N, A>, Row> {
  using a = observe<Observer, How, A, Row + 1>;
  using type = observed<Observer, Row, repeated<N, A>, repeated<N, typename a::type>>;
  static constexpr int next = a::next;
};
template <class Observer, class How, Named E, int Row>
requires(How::template opens<E>) struct observe<Observer, How, E, Row> {
  using a = observe<Observer, How, inner_t<E>, Row + 1>;
  using type = observed<Observer, Row, E, typename a::type>;
  static constexpr int next = a::next;
};

/// Whether a node of E is observed.
template <class Observer, int Row, Expr E, Expr Runs>
constexpr bool any_observed(observed<Observer, Row, E, Runs>) {
  return true;
}
template <Expr E>
constexpr bool any_observed(E) {
  bool any = false;
  each_part(parts<E>, [&](auto part) { any |= any_observed(part); });
  return any;
}

/// The whole as row 0, and what it opens from row 1 on. An expression has one such count of rows.
template <class Observer, class How, Expr E>
struct observe_all {
  static_assert(!any_observed(E{}),
                "watched<E, X>, timed<E, X>: a part of E is watched or timed already: put one of "
                "the two around the whole expression, once");
  using type = observed<Observer, 0, E, typename observe<Observer, How, E, 1>::type>;
};
template <class Observer, class How, Expr E>
using observed_nodes = typename observe_all<Observer, How, E>::type;

}  // namespace detail

template <class X, class Observer, int Row, Expr E, Expr Runs>
struct plan<X, observed<Observer, Row, E, Runs>> {
  using S = typename X::scalar;
  using whole = plan<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;
  static constexpr bool any_rows = AnyRows<whole>, picks_rows = PicksRows<whole>;
  static constexpr bool in_place = InPlace<whole>;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    observer<Observer, X>::forward(p, Row, y, [&] { whole::forward(p, w, s, x, y); });
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    observer<Observer, X>::backward(p, Row, dy, [&] { whole::backward(p, w, s, x, dy, dw, dx); });
  }
};

template <class X, class Observer, int Row, Expr E, Expr Runs>
struct scored<X, observed<Observer, Row, E, Runs>> {
  using S = typename X::scalar;
  using whole = scored<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;
  static constexpr std::int64_t rows(std::int64_t tokens) { return whole::rows(tokens); }

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const& s, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    return observer<Observer, X>::scored(
        p, Row, loss, [&](auto const& seen) { return whole::run(p, w, s, x, seen, dw, dx); });
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
