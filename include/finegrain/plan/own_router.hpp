// Plans of experts whose logits a router of your own makes, for every executor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../expr/own_router.hpp"
#include "compose.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How logits go from a router's plan to that of experts, and their gradients back: they lie where
/// the experts read and leave them. An executor whose logits are not of its scalar converts them.
template <class X, class Experts>
struct handed_logits {
  using S = typename X::scalar;
  constexpr handed_logits(arena&, extent) {}

  static matrix<S> made(typename Experts::saved const& s) { return s.routing.logits; }
  static void hand(X const&, typename Experts::saved const&) {}
  static matrix<S const> gradient(X const&, typename Experts::scratch const& t) {
    return t.route.dlogits;
  }
};

/// The router's plan, and behind it Experts, the plan of a config with given logits. As every router
/// it computes in the executor's full numbers, also where products of experts are of fewer bits.
template <class X, class Experts, Expr Router>
struct routed_by {
  using S = typename X::scalar;
  using router_plan = plan<X, Router>;

  static constexpr extent exact(extent e) {
    e.kept = format::f32;
    return e;
  }
  struct saved {
    typename Experts::saved experts;
    typename router_plan::saved router;
    constexpr saved(arena& memory, extent e) : experts(memory, e), router(memory, exact(e)) {}
  };
  struct scratch {
    typename Experts::scratch experts;
    handed_logits<X, Experts> logits;
    matrix<S> dx;  // (T, D) of the router, in training
    arena rest;    // for the router
    constexpr scratch(arena& memory, extent e)
        : experts(memory, e),
          logits(memory, e),
          dx(memory.matrix<S>(e.training ? e.tokens : 0, in_width<Router>())),
          rest(memory) {
      typename router_plan::scratch(memory, exact(e));
    }
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    pass<X> const whole = p;  // whose scratch begins where that of the experts does
    scratch const t(p.scratch, p.extent);
    X const on = p.on.exact();
    router_plan::forward({on, p.batch, t.rest, exact(p.extent), p.gradients, p.cache},
                         routed_part(w).own, s.router, x, t.logits.made(s.experts));
    t.logits.hand(on, s.experts);
    Experts::forward(whole, w, s.experts, x, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    pass<X> const whole = p;
    scratch const t(p.scratch, p.extent);
    X const on = p.on.exact();
    Experts::backward(whole, w, s.experts, x, dy, dw, dx);
    router_plan::backward({on, p.batch, t.rest, exact(p.extent), p.gradients}, routed_part(w).own,
                          s.router, x, t.logits.gradient(on, t.experts), routed_part(dw).own, t.dx);
    add_rows(p.on, matrix<S const>(t.dx), dx);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
