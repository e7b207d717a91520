// The DeepSeekMoE layer, as its equations read:
//
//   y = sum over shared experts i of FFN_i(x)  +  sum over the K chosen experts i of g_i FFN_i(x)
//
// `mixture<C>` is a name for shared_experts<C> + routed_experts<C>; these are the two plans.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "combine.hpp"
#include "experts.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The shared experts: one feed-forward block of width S F, for every token. With a shared gate
/// its output is weighted by sigmoid(x . shared_gate).
template <class T, config C>
struct plan<basic_reference<T>, shared_experts<C>> {
  using X = basic_reference<T>;
  static constexpr int width = shared_experts<C>::width;

  struct saved {
    expert_saved<T> expert;  // (T, S F)
    matrix<T> gate;          // (T, 1) the sigmoid, or empty
    constexpr saved(arena& memory, extent e)
        : expert(memory, e.tokens, width), gate(memory.matrix<T>(e.tokens, C.shared_gate)) {}
  };
  struct scratch {
    expert_scratch<T> expert;
    matrix<T> out, dout, dgate;  // (T, D), (T, D), (T, 1), for a shared gate
    constexpr scratch(arena& memory, extent e)
        : expert(memory, e, e.tokens, width),
          out(memory.matrix<T>(C.shared_gate ? e.tokens : 0, C.hidden)),
          dout(memory.matrix<T>(C.shared_gate ? e.tokens : 0, C.hidden)),
          dgate(memory.matrix<T>(C.shared_gate ? e.tokens : 0, 1)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    if (!p.batch.routing.shared) {
      spec::clear(y);
    } else if (!C.shared_gate) {
      expert_forward<T>(p.on, C.act, x, w, s.expert, t.expert, y);
    } else {
      linear_forward(p.on, x, w.shared_gate, s.gate);
      for (std::int64_t i = 0; i < x.rows; ++i) s.gate(i, 0) = spec::sigmoid(s.gate(i, 0));
      expert_forward<T>(p.on, C.act, x, w, s.expert, t.expert, t.out);
      spec::clear(y);
      combine_forward(p.on, s.gate, t.out, y);
    }
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    if (!p.batch.routing.shared) {
      for (auto gradient : {dw.gate, dw.up, dw.down, dw.shared_gate})
        spec::begin(gradient, p.gradients);
      spec::clear(dx);
    } else if (!C.shared_gate) {
      expert_backward<T>(p.on, C.act, x, w, s.expert, t.expert, dy, dw, p.gradients, dx,
                         gradients::overwrite);
    } else {
      gated_forward(p.on, C.act, s.expert.gate, s.expert.up, t.expert.hidden);
      linear_forward(p.on, t.expert.hidden, w.down, t.out);
      combine_backward(p.on, s.gate, t.out, dy, t.dgate, t.dout);
      expert_backward<T>(p.on, C.act, x, w, s.expert, t.expert, t.dout, dw, p.gradients, dx,
                         gradients::overwrite);
      for (std::int64_t i = 0; i < x.rows; ++i) t.dgate(i, 0) *= s.gate(i, 0) * (1 - s.gate(i, 0));
      linear_backward(p.on, x, w.shared_gate, t.dgate, dw.shared_gate, p.gradients, dx,
                      gradients::accumulate);
    }
  }
};

/// The routed experts: for each token, slot by slot, the chosen expert's output times its weight.
template <class T, config C>
struct plan<basic_reference<T>, routed_experts<C>> {
  using X = basic_reference<T>;

  struct saved {
    finegrain::routing<T> routing;
    expert_saved<T> experts;  // (T k, F), a row for each token and slot
    constexpr saved(arena& memory, extent e)
        : routing(memory, e, C), experts(memory, e.tokens * routing.experts.cols, C.width) {}
  };
  struct scratch {
    router_scratch<T> router;
    expert_scratch<T> expert;  // (1, F)
    matrix<T> out, dout;       // (1, D)
    constexpr scratch(arena& memory, extent e)
        : router(memory, e, C),
          expert(memory, e, 1, C.width),
          out(memory.matrix<T>(1, C.hidden)),
          dout(memory.matrix<T>(1, C.hidden)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    auto const& request = p.batch.routing;
    route_forward(p.on, C, request, x, w.router, w.bias, s.routing, t.router);
    if (p.batch.log) report_routing(p.on, C, request, s.routing, t.router, *p.batch.log);

    spec::clear(y);
    for (std::int64_t token = 0; token < x.rows; ++token)
      for (int slot = 0; slot < chosen(C, request); ++slot) {
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
    auto const& request = p.batch.routing;
    for (int i = 0; i < C.routed; ++i)
      for (auto gradient : {dw.gate[i], dw.up[i], dw.down[i]}) spec::begin(gradient, p.gradients);
    spec::begin(dw.bias, p.gradients);  // the selection bias has no gradient
    spec::clear(dx);

    for (std::int64_t token = 0; token < x.rows; ++token)
      for (int slot = 0; slot < chosen(C, request); ++slot) {
        std::int32_t const i = s.routing.experts(token, slot);
        auto const expert = spec::expert_of<T const>(w, i);
        auto const saved = at(s, token, slot);
        gated_forward(p.on, C.act, saved.gate, saved.up, t.expert.hidden);
        linear_forward(p.on, t.expert.hidden, expert.down, t.out);
        combine_backward(p.on, cell(s.routing.weights, token, slot), t.out,
                         dy.middle_rows(token, 1), cell(t.router.dweights, token, slot), t.dout);
        expert_backward<T>(p.on, C.act, x.middle_rows(token, 1), expert, saved, t.expert, t.dout,
                           spec::expert_of<T>(dw, i), gradients::accumulate,
                           dx.middle_rows(token, 1), gradients::accumulate);
      }
    route_backward(p.on, C, request, x, w.router, s.routing, t.router, dw.router, p.gradients, dx);
  }

 private:
  static expert_saved<T> at(saved const& s, std::int64_t token, int slot) {
    return s.experts.row(token * s.routing.experts.cols + slot);
  }
  static matrix<T> cell(matrix<T> m, std::int64_t token, int slot) {
    return m.middle_rows(token, 1).middle_cols(slot, 1);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
