// blend(a, b): its mix, and its plan for every executor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "compose.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

template <class X>
using rows_in = matrix<typename X::scalar const>;
template <class X>
using rows_out = matrix<typename X::scalar>;

}  // namespace detail

/// A blend's mix (T, 2), made of x, and y = mix_0 ya + mix_1 yb.
template <class X>
void blend_forward(X const& on, detail::rows_in<X> x, detail::rows_in<X> w, detail::rows_in<X> ya,
                   detail::rows_in<X> yb, detail::rows_out<X> mix, detail::rows_out<X> y) {
  linear_forward(on.exact(), x, w, mix);
  detail::for_rows(on, y.rows, [&](std::int64_t t, int) {
    auto const part = detail::logistic(mix(t, 0) - mix(t, 1));
    mix(t, 0) = part;
    mix(t, 1) = 1 - part;
    for (std::int64_t c = 0; c < y.cols; ++c) y(t, c) = mix(t, 0) * ya(t, c) + mix(t, 1) * yb(t, c);
  });
}
/// Gradients of ya, of yb, and of what the mix was made from (T, 2).
template <class X>
void blend_backward(X const& on, detail::rows_in<X> mix, detail::rows_in<X> ya,
                    detail::rows_in<X> yb, detail::rows_in<X> dy, detail::rows_out<X> da,
                    detail::rows_out<X> db, detail::rows_out<X> dmix) {
  detail::for_rows(on, dy.rows, [&](std::int64_t t, int) {
    typename X::scalar difference = 0;
    for (std::int64_t c = 0; c < dy.cols; ++c) {
      da(t, c) = mix(t, 0) * dy(t, c);
      db(t, c) = mix(t, 1) * dy(t, c);
      difference += dy(t, c) * (ya(t, c) - yb(t, c));
    }
    dmix(t, 0) = mix(t, 0) * mix(t, 1) * difference;  // softmax' of two: c_0 c_1 (dc_0 - dc_1)
    dmix(t, 1) = -dmix(t, 0);
  });
}

namespace detail {

template <class X, Expr A, Expr B>
struct blend_plan : composed {
  using S = typename X::scalar;
  using first = plan<X, A>;
  using second = plan<X, B>;
  static constexpr int in = in_width<A>(), out = out_width<A>();

  struct saved {
    typename first::saved a;
    typename second::saved b;
    matrix<S> ya, yb;                    // (T, out)
    matrix<typename place<X>::sum> mix;  // (T, 2)
    constexpr saved(arena& memory, extent e)
        : a(memory, e),
          b(memory, e),
          ya(memory.matrix<S>(e.tokens, out)),
          yb(memory.matrix<S>(e.tokens, out)),
          mix(memory.matrix<typename place<X>::sum>(e.tokens, 2)) {}
  };
  struct scratch {
    matrix<S> da, db;  // (T, out): gradients of ya and yb
    matrix<S> other;   // (T, in): the gradient of b's x
    matrix<S> dmix;    // (T, 2)
    arena rest;        // for the parts, in turn
    constexpr scratch(arena& memory, extent e)
        : da(memory.matrix<S>(e.training ? e.tokens : 0, out)),
          db(memory.matrix<S>(e.training ? e.tokens : 0, out)),
          other(memory.matrix<S>(e.training ? e.tokens : 0, in)),
          dmix(memory.matrix<S>(e.training ? e.tokens : 0, 2)),
          rest(memory) {
      in_turn<typename first::scratch, typename second::scratch>(memory, e);
    }
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    p.scratch = scratch(p.scratch, p.extent).rest;
    first::forward(p, w.a, s.a, x, s.ya);
    second::forward(p, w.b, s.b, x, s.yb);
    blend_forward(p.on, x, w.mix, s.ya, s.yb, s.mix, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    scratch const t(p.scratch, p.extent);
    p.scratch = t.rest;
    blend_backward(p.on, s.mix, s.ya, s.yb, dy, t.da, t.db, t.dmix);
    first::backward(p, w.a, s.a, x, t.da, dw.a, dx);
    second::backward(p, w.b, s.b, x, t.db, dw.b, t.other);
    add_rows(p.on, matrix<S const>(t.other), dx);
    linear_backward(p.on.exact(), x, w.mix, t.dmix, dw.mix, p.gradients, dx, gradients::accumulate);
  }
};

}  // namespace detail

template <class X, Expr A, Expr B>
struct plan<X, blended<A, B>> : detail::blend_plan<X, A, B> {};

}  // namespace finegrain::inline FINEGRAIN_ABI
