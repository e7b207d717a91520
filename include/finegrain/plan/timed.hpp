// timed: an expression whose run writes down how long each of its nodes took.
//
// Every node that an executor has a plan for gets a name whose plan is the node's own between two
// looks at a clock. It is another expression, so that those without clocks are compiled as ever.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <vector>

#include "../expr/clocked.hpp"
#include "scored.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What the nodes of a timed expression took, all passes since the rows were last cleared. Row 0 is
/// the whole; then come the lines of `explain` that name a plan, in their order.
struct timings {
  struct sum {
    std::int64_t calls = 0;
    double seconds = 0;
  };
  struct row {
    sum forward = {}, backward = {};
    sum both = {};  // forward, loss and backward in one: what ends in the loss of a training step

    /// How often the node was run forward, and what all its passes took.
    std::int64_t calls() const { return forward.calls + both.calls; }
    double seconds() const { return forward.seconds + backward.seconds + both.seconds; }
    /// Their work, a forward pass being 1: a backward pass has twice its products and its traffic.
    double passes() const {
      return static_cast<double>(forward.calls + 2 * backward.calls + 3 * both.calls);
    }
  };
  std::vector<row> rows;  // the first pass makes them
};

namespace detail {

/// Adds the seconds of its life to a row.
FINEGRAIN_LAZY class stopwatch {
 public:
  stopwatch(timings* to, std::size_t row, timings::sum timings::row::*phase)
      : to_(to), row_(row), phase_(phase) {
    if (!to) return;
    if (to->rows.size() <= row) to->rows.resize(row + 1);
    begin_ = now();
  }
  ~stopwatch() {
    if (!to_) return;
    timings::sum& sum = to_->rows[row_].*phase_;
    sum.seconds += now() - begin_;
    ++sum.calls;
  }
  stopwatch(stopwatch const&) = delete;
  stopwatch& operator=(stopwatch const&) = delete;

 private:
  static double now() {  // not <chrono>: who includes the library would compile it
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }

  timings* to_;
  std::size_t row_;
  timings::sum timings::row::*phase_;
  double begin_ = 0;
};

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
/// Not on cuda, where a call's return says nothing of when its work is done.
template <Expr E, class X>
using timed = clocked<0, E, typename detail::clocks<X, E, 1>::type>;

template <class X, int Row, Expr E, Expr Runs>
struct plan<X, clocked<Row, E, Runs>> {
  static_assert(place<X>::here, "stages are timed on executors that are done when a call returns");
  using S = typename X::scalar;
  using whole = plan<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    detail::stopwatch<> const watch(p.batch.times, Row, &timings::row::forward);
    whole::forward(p, w, s, x, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    detail::stopwatch<> const watch(p.batch.times, Row, &timings::row::backward);
    whole::backward(p, w, s, x, dy, dw, dx);
  }
};

template <class X, int Row, Expr E, Expr Runs>
struct scored<X, clocked<Row, E, Runs>> {
  using S = typename X::scalar;
  using whole = scored<X, Runs>;
  using saved = typename whole::saved;
  using scratch = typename whole::scratch;

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const& s, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    detail::stopwatch<> const watch(
        p.batch.times, Row, p.extent.training ? &timings::row::both : &timings::row::forward);
    return whole::run(p, w, s, x, loss, dw, dx);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
