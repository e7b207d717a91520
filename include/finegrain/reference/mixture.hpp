// The DeepSeekMoE layer, as its equations read:
//
//   y = sum over shared experts i of FFN_i(x)  +  sum over the K chosen experts i of g_i FFN_i(x)
//
// `mixture<C>` is a name for shared_experts<C> + routed_experts<C>; these are the two plans.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/own_router.hpp"
#include "combine.hpp"
#include "experts.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The shared experts: one feed-forward block of width S F, for every token. With a shared gate
/// its output is weighted by sigmoid(x . shared_gate), and by shared_scale always.
template <class T, config C>
struct plan<basic_reference<T>, shared_experts<C>> {
  using X = basic_reference<T>;
  static constexpr int width = shared_experts<C>::width;
  static constexpr bool weighed = weighs_shared(C);

  struct saved {
    expert_saved<T> expert;  // (T, S F)
    matrix<T> weight;        // (T, 1), or empty
    constexpr saved(arena& memory, extent e)
        : expert(memory, e.tokens, width), weight(memory.matrix<T>(e.tokens, weighed)) {}
  };
  struct scratch {
    expert_scratch<T> expert;
    matrix<T> out, dout, dgate;  // (T, D), (T, D), (T, 1), for a weight
    constexpr scratch(arena& memory, extent e)
        : expert(memory, e, e.tokens, width),
          out(memory.matrix<T>(weighed ? e.tokens : 0, C.hidden)),
          dout(memory.matrix<T>(weighed ? e.tokens : 0, C.hidden)),
          dgate(memory.matrix<T>(weighed ? e.tokens : 0, 1)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    if (!p.batch.routing.shared) {
      spec::clear(y);
    } else if (!weighed) {
      expert_forward<T>(p.on, C.act, x, w, s.expert, t.expert, y);
    } else {
      if (C.shared_gate) linear_forward(p.on, x, w.shared_gate, s.weight);
      for (std::int64_t i = 0; i < x.rows; ++i)
        s.weight(i, 0) =
            T(C.shared_scale) * (C.shared_gate ? detail::logistic(s.weight(i, 0)) : T(1));
      expert_forward<T>(p.on, C.act, x, w, s.expert, t.expert, t.out);
      spec::clear(y);
      combine_forward(p.on, s.weight, t.out, y);
    }
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    if (!p.batch.routing.shared) {
      spec::begin(p.gradients, dw.gate, dw.up, dw.down, dw.shared_gate);
      spec::clear(dx);
    } else if (!weighed) {
      expert_backward<T>(p.on, C.act, x, w, s.expert, t.expert, dy, dw, p.gradients, dx,
                         gradients::overwrite);
    } else {
      gated_forward(p.on, C.act, s.expert.gate, s.expert.up, t.expert.hidden);
      linear_forward(p.on, t.expert.hidden, w.down, t.out);
      combine_backward(p.on, s.weight, t.out, dy, t.dgate, t.dout);
      expert_backward<T>(p.on, C.act, x, w, s.expert, t.expert, t.dout, dw, p.gradients, dx,
                         gradients::overwrite);
      if constexpr (C.shared_gate) {
        for (std::int64_t i = 0; i < x.rows; ++i)  // scale sigmoid' = weight (1 - sigmoid)
          t.dgate(i, 0) *= s.weight(i, 0) * (1 - s.weight(i, 0) / T(C.shared_scale));
        linear_backward(p.on, x, w.shared_gate, t.dgate, dw.shared_gate, p.gradients, dx,
                        gradients::accumulate);
      }
    }
  }
};

/// The routed experts: for each token, slot by slot, the chosen expert's output times its weight.
template <class T, config C>
struct routed_plan {
  using X = basic_reference<T>;

  struct saved {
    finegrain::routing<T> routing;
    expert_saved<T> experts;  // (T k, F), a row for each token and slot
    constexpr saved(arena& memory, extent e)
        : routing(memory, e, C), experts(memory, e.tokens * routing.experts.cols, C.width) {}
  };
  struct scratch {
    router_scratch<T> route;
    expert_scratch<T> expert;  // (1, F)
    matrix<T> out, dout;       // (1, D)
    constexpr scratch(arena& memory, extent e)
        : route(memory, e, C),
          expert(memory, e, 1, C.width),
          out(memory.matrix<T>(1, C.hidden)),
          dout(memory.matrix<T>(1, C.hidden)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    route_forward(p.on, C, p.batch, x, router_weights<T const>(w), s.routing, t.route);

    spec::clear(y);
    for (std::int64_t token = 0; token < x.rows; ++token)
      for (int slot = 0; slot < slots(C, p.batch.routing); ++slot) {
        if (!is_kept(s.routing.experts(token, slot))) continue;
        auto const expert = spec::expert_of<T const>(w, s.routing.experts(token, slot));
        expert_forward<T>(p.on, C.act, x.middle_rows(token, 1), expert, at(s, token, slot),
                          t.expert, t.out);
        combine_forward(p.on, cell(s.routing.weights, token, slot), t.out, y.middle_rows(token, 1));
      }
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    for (int i = 0; i < C.routed; ++i) spec::begin(p.gradients, dw.gate[i], dw.up[i], dw.down[i]);
    spec::begin(p.gradients, dw.bias, dw.table);  // they have none
    spec::clear(dx);
    spec::clear(t.route.dweights);

    for (std::int64_t token = 0; token < x.rows; ++token)
      for (int slot = 0; slot < slots(C, p.batch.routing); ++slot) {
        std::int32_t const i = s.routing.experts(token, slot);
        if (!is_kept(i)) continue;
        auto const expert = spec::expert_of<T const>(w, i);
        auto const saved = at(s, token, slot);
        gated_forward(p.on, C.act, saved.gate, saved.up, t.expert.hidden);
        linear_forward(p.on, t.expert.hidden, expert.down, t.out);
        combine_backward(p.on, cell(s.routing.weights, token, slot), t.out,
                         dy.middle_rows(token, 1), cell(t.route.dweights, token, slot), t.dout);
        expert_backward<T>(p.on, C.act, x.middle_rows(token, 1), expert, saved, t.expert, t.dout,
                           spec::expert_of<T>(dw, i), gradients::accumulate,
                           dx.middle_rows(token, 1), gradients::accumulate);
      }
    route_backward(p.on, C, p.batch, x, router_weights<T const>(w), s.routing, t.route,
                   router_weights<T>(dw), p.gradients, dx);
  }

 private:
  static expert_saved<T> at(saved const& s, std::int64_t token, int slot) {
    return s.experts.row(token * s.routing.experts.cols + slot);
  }
  static matrix<T> cell(matrix<T> m, std::int64_t token, int slot) {
    return m.middle_rows(token, 1).middle_cols(slot, 1);
  }
};

template <class T, config C>
struct plan<basic_reference<T>, routed_experts<C>> : routed_plan<T, C> {};
template <class T, config C, Expr Router>
struct plan<basic_reference<T>, routed_experts<C, Router>>
    : routed_by<basic_reference<T>, routed_plan<T, with_given_logits(C)>, Router> {};

}  // namespace finegrain::inline FINEGRAIN_ABI
