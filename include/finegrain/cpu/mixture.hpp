// The DeepSeekMoE layer: route, dispatch, all experts in one set of loops, combine.
//
//   y = sum over shared experts i of FFN_i(x)  +  sum over the K chosen experts i of g_i FFN_i(x)
//
// One body of code with run-time sizes serves every config and four plans: shared experts alone,
// routed experts alone, the mixture, and the mixture with its norm and residual.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/own_router.hpp"
#include "../plan/stages.hpp"
#include "combine.hpp"
#include "mixture_memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// The sum of a slot's partial sums.
inline float sum_parts(matrix<float const> parts, std::int64_t slot) {
  float sum = 0;
  for (std::int64_t i = 0; i < parts.cols; ++i) sum += parts(slot, i);
  return sum;
}

FINEGRAIN_LAZY inline void clear(cpu const& on, stack<float> s) {
  on.threads(s.count * s.rows,
             [&](std::int64_t r, int) { std::fill_n(s.data + r * s.cols, s.cols, 0.0f); });
}

FINEGRAIN_LAZY inline void run_experts(cpu const& on, glu act, std::span<expert_group const> groups,
                                       layer_weights<float const> const&, matrix<float const> x,
                                       mixture_scratch const& t) {
  in_products_of(on, [&]<format F>() {
    experts_forward(on, act, groups, stored_experts<F>{on.copy}, x, t.tasks, t.room);
  });
}
template <format F>
void run_experts(cpu const& on, glu act, std::span<expert_group const> groups,
                 frozen_layer<F> const& w, matrix<float const> x, mixture_scratch const& t) {
  experts_forward(on, act, groups, w.experts, x, t.tasks, t.room);
}

}  // namespace simd

/// y (T, D) = the layer of x (T, D) times `scale`, plus `also` (T, D) if given. With a norm, of its
/// rows.
template <class Layer>
void mixture_forward(cpu const& on, config const& c, batch const& b, Layer const& w,
                     mixture_saved const& s, mixture_scratch const& t, matrix<float const> x,
                     matrix<float> y, fused_norm const* norm = nullptr,
                     matrix<float const> also = {}, float scale = 1) {
  int const k = slots(c, b.routing);
  if (w.gate.count > 0) {
    route_forward(on, c, b, x, norm, w.router, s.routing, t.route);
    dispatch(on, s.routing.experts.middle_cols(0, k), c.routed, s.dispatched);
  }
  if (norm) x = norm->rows;

  simd::mixture_groups<> groups(w, s, t, x.rows, b.routing.shared);
  bool const weighed = groups.shared() && weighs_shared(c);
  if (weighed && c.shared_gate) {
    linear_forward(on.exact(), x, w.weigh_shared, {s.shared_weight, x.rows, 1});
    simd::map(s.shared_weight, x.rows,
              [&c](simd::vec z) { return c.shared_scale * simd::sigmoid(z); });
  } else if (weighed) {
    std::fill_n(s.shared_weight, x.rows, c.shared_scale);
  }
  simd::run_experts(on, c.act, groups.all(), w, x, t);

  combination sum{.scale = scale, .also = also};
  if (groups.shared()) sum.shared = t.shared_out;
  if (weighed) sum.shared_weight = s.shared_weight;
  if (groups.routed()) {
    sum.slots = t.out;
    sum.slot = s.dispatched.slot.middle_cols(0, k);
    sum.weights = s.routing.weights;
  }
  combine(on, sum, y);
}

/// dx (T, D), and dw, from dy (T, D). x is what forward's experts read.
FINEGRAIN_LAZY void mixture_backward(cpu const& on, config const& c, batch const& b,
                                     layer_weights<float const> const& w, mixture_saved const& s,
                                     mixture_scratch const& t, matrix<float const> x,
                                     matrix<float const> dy, layer_weights<float> const& dw,
                                     gradients mode, matrix<float> dx) {
  int const k = slots(c, b.routing);
  matrix<std::int32_t const> const slot = s.dispatched.slot.middle_cols(0, k);
  simd::mixture_groups<> groups(w, s, t, x.rows, b.routing.shared);
  bool const gated = groups.shared() && c.shared_gate;
  combination sum;
  if (expert_group* const g = groups.shared()) {
    g->dgate = dw.shared_gate;
    g->dup = dw.shared_up;
    g->ddown = dw.shared_down;
    g->dgate_up = t.shared_dgate_up;
    g->weight = weighs_shared(c) ? s.shared_weight : nullptr;
    g->dweight = t.shared_dweight;
    sum.shared = t.shared_out;
  }
  if (expert_group* const g = groups.routed()) {
    for (std::int64_t i = 0; i < x.rows; ++i)
      for (int j = 0; j < k; ++j)
        if (slot(i, j) >= 0) t.weight[slot(i, j)] = s.routing.weights(i, j);
    g->dgate = dw.gate;
    g->dup = dw.up;
    g->ddown = dw.down;
    g->dgate_up = t.dgate_up;
    g->weight = t.weight;
    g->dweight = t.dweight;
    sum.slots = t.out;
    sum.slot = slot;
  }
  experts_backward(on, c.act, groups.all(), x, dy, mode, t.tasks, t.room);
  combine(on, sum, dx);

  if (gated) {
    for (std::int64_t i = 0; i < x.rows; ++i)
      t.dgate(i, 0) = simd::sum_parts(t.shared_dweight, i) * s.shared_weight[i] *
                      (1 - s.shared_weight[i] / c.shared_scale);
    linear_backward(on.exact(), x, w.weigh_shared, t.dgate, dw.weigh_shared, mode, dx,
                    gradients::accumulate);
  }
  if (groups.routed()) {
    for (std::int64_t i = 0; i < x.rows; ++i)
      for (int j = 0; j < k; ++j)
        t.route.dweights(i, j) = slot(i, j) < 0 ? 0 : simd::sum_parts(t.dweight, slot(i, j));
    route_backward(on, c, b, x, w.router, s.routing, t.route, dw.router, mode, dx);
  }
  if (mode == gradients::overwrite) {  // what has no gradient, or took no part
    for (auto const& fixed : {dw.router.bias, dw.router.table})
      simd::clear(on, simd::stacked(fixed));
    if (!groups.shared())
      for (auto const& unused :
           {dw.shared_gate, dw.shared_up, dw.shared_down, simd::stacked(dw.weigh_shared)})
        simd::clear(on, unused);
  }
}

/// The plan of a config's shared experts, routed experts, or both.
template <config C, bool Shared, bool Routed>
struct mixture_plan {
  static constexpr mixture_parts parts{Shared, Routed};

  struct saved : mixture_saved {
    constexpr saved(arena& memory, extent e) : mixture_saved(memory, e, C, parts) {}
  };
  struct scratch : mixture_scratch {
    constexpr scratch(arena& memory, extent e) : mixture_scratch(memory, e, C, parts) {}
  };

  template <class W>
  static void forward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                      matrix<float> y) {
    mixture_forward(p.on, C, p.batch, layer(w), s, scratch(p.scratch, p.extent), x, y);
  }
  template <class W, class V>
  static void backward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                       matrix<float const> dy, V const& dw, matrix<float> dx) {
    mixture_backward(p.on, C, p.batch, views<float const>(w), s, scratch(p.scratch, p.extent), x,
                     dy, views<float>(dw), p.gradients, dx);
  }

  template <class T, class W>
  static layer_weights<T> views(W const& w) {
    layer_weights<T> v;
    if constexpr (Shared) v.set_shared(shared_part(w));
    if constexpr (Routed) v.set_routed(routed_part(w));
    return v;
  }
  /// What forward reads: weights as stored, or frozen ones.
  template <class W>
  static auto layer(W const& w) {
    using part = std::remove_cvref_t<decltype(routed_part(w))>;
    if constexpr (Frozen<part>) {
      frozen_layer<part::number> v{views<float const>(w), {}};
      if constexpr (Shared) v.experts.shared = shared_part(w);
      if constexpr (Routed) v.experts.routed = routed_part(w);
      return v;
    } else {
      return views<float const>(w);
    }
  }
};

}  // namespace FINEGRAIN_ISA

template <config C>
struct plan<cpu, shared_experts<C>> : mixture_plan<C, true, false> {};
template <config C>
struct plan<cpu, routed_experts<C>> : mixture_plan<C, false, true> {};
template <config C>
struct plan<cpu, mixture<C>> : mixture_plan<C, (C.shared > 0), true> {};
template <config C, Expr Router>
struct plan<cpu, routed_experts<C, Router>>
    : routed_by<cpu, mixture_plan<with_given_logits(C), false, true>, Router> {};
template <config C, Expr Router>
struct plan<cpu, mixture<C, Router>>
    : routed_by<cpu, mixture_plan<with_given_logits(C), (C.shared > 0), true>, Router> {};

inline namespace FINEGRAIN_ISA {

/// x + Factor mixture(rmsnorm(x)): normalised rows are made once, in the router's pass; the residual is
/// added in the combine. Weights are those of x + mixture(rmsnorm(x)).
template <int D, real_number Epsilon, config C, real_number Factor>
struct residual_mixture {
  using layer = plan<cpu, mixture<C>>;
  static constexpr bool scaled = Factor.value != 1;

  struct saved {
    matrix<float> rows;  // (T, D) of the norm
    float* inverse_rms;  // (T)
    typename layer::saved mixture;
    constexpr saved(arena& memory, extent e)
        : rows(memory.matrix<float>(e.tokens, D)),
          inverse_rms(memory.take<float>(e.tokens)),
          mixture(memory, e) {}
  };
  struct scratch {
    matrix<float> drows;  // (T, D)
    matrix<float> dout;   // (T, D): Factor dy
    typename layer::scratch mixture;
    constexpr scratch(arena& memory, extent e)
        : drows(memory.matrix<float>(e.training ? e.tokens : 0, D)),
          dout(memory.matrix<float>(e.training && scaled ? e.tokens : 0, D)),
          mixture(memory, e) {}
  };

  template <class W>
  static void forward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                      matrix<float> y) {
    scratch const t(p.scratch, p.extent);
    fused_norm const norm{w.a.a.gain, static_cast<float>(Epsilon.value), s.rows, s.inverse_rms};
    mixture_forward(p.on, C, p.batch, layer::layer(w.a.b), s.mixture, t.mixture, x, y, &norm, x,
                    static_cast<float>(Factor.value));
  }
  template <class W, class V>
  static void backward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                       matrix<float const> dy, V const& dw, matrix<float> dx) {
    scratch const t(p.scratch, p.extent);
    if constexpr (scaled) scale_rows(p.on, dy, Factor.value, t.dout);
    mixture_backward(p.on, C, p.batch, layer::template views<float const>(w.a.b), s.mixture,
                     t.mixture, s.rows, scaled ? matrix<float const>(t.dout) : dy,
                     layer::template views<float>(dw.a.b), p.gradients, t.drows);
    rmsnorm_backward(p.on, x, w.a.a.gain, s.inverse_rms, t.drows, dw.a.a.gain, p.gradients, dx, dy);
  }
};

}  // namespace FINEGRAIN_ISA

template <int D, real_number Epsilon, config C>
struct plan<cpu, residual_of<then<rmsnorm<D, Epsilon>, mixture<C>>>>
    : residual_mixture<D, Epsilon, C, 1.0> {};
template <int D, real_number Epsilon, config C, real_number Factor>
struct plan<cpu, residual_of<then<then<rmsnorm<D, Epsilon>, mixture<C>>, times<D, Factor>>>>
    : without_times<cpu, residual_mixture<D, Epsilon, C, Factor>> {};

}  // namespace finegrain::inline FINEGRAIN_ABI
