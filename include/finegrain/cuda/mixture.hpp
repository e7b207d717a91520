// The DeepSeekMoE layer on the device: plans, whose passes mixture_pass.hpp has.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "frozen.hpp"
#include "mixture_pass.hpp"
#include "normed_residual.hpp"
#include "supported.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Dense: of one expert for all tokens, of which no request is made.
template <class T, config C, bool Shared, bool Routed, bool Dense = false>
struct mixture_plan {
  using X = basic_cuda<T>;
  static constexpr config layer = C;  // which passes refer to
  static_assert(!unsupported(C),
                "on cuda, hidden and width are multiples of 8, and routed is 1024 at most: see "
                "cuda/supported.hpp");

  struct saved : mixture_saved<T> {
    constexpr saved(arena& memory, extent e) : mixture_saved<T>(memory, e, C, Shared, Routed) {}
  };
  struct scratch : mixture_scratch<T> {
    constexpr scratch(arena& memory, extent e) : mixture_scratch<T>(memory, e, C, Shared, Routed) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    check_dense(x, "x"), check_dense(y, "y");
    pass_of(p, w, s, x.data, experts_of(p.on, w)).forward(nullptr, y.data);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    check_dense(dy, "dy"), check_dense(dx, "dx");
    pass_of(p, w, s, x.data, experts<T>{}).backward(dy.data, views<T>(dw), nullptr, dx.data);
  }

  template <class W, class Experts>
  static auto pass_of(pass<X> const& p, W const& w, mixture_saved<T> const& s, T const* x,
                      Experts const& experts) {
    constexpr int numbers = Routed ? lane_numbers(C.routed) : 0;
    return mixture_pass<T, numbers, (Routed && rarer(C)), (Routed && C.bias), Experts>(
        p, layer, Shared, Dense || p.batch.routing.shared, views<T const>(w), s, x, experts);
  }
  template <class U, class W>
  static mixture_weights<U> views(W const& w) {
    mixture_weights<U> v;
    if constexpr (Shared) add_shared(v, shared_part(w));
    if constexpr (Routed) add_routed(v, routed_part(w));
    return v;
  }
  template <class U>
  static void check_dense(matrix<U> m, char const* what) {
    if (m.rows > 1 && m.stride != m.cols)
      throw invalid_argument("on cuda the rows of %s must lie one after the other", what);
    check_rows(m, what);
  }
  /// What makes forward's products: of weights as stored, or of frozen ones.
  template <class W>
  static auto experts_of(X const& on, W const& w) {
    using part = std::remove_cvref_t<decltype(routed_part(w))>;
    if (on.activations != format::bf16 && on.activations != format::fp8)
      throw invalid_argument("the activations of frozen experts are bf16 or fp8");
    if constexpr (Frozen<part>) {
      if (on.activations == format::fp8 && !frozen_products<T, part::number>::has_fp8)
        throw invalid_argument(
            "activations in fp8 are for experts frozen in fp8, of bf16 networks");
      frozen_products<T, part::number> v{.activations = on.activations};
      if constexpr (Shared) v.shared = shared_part(w).codes;
      if constexpr (Routed) v.routed = routed_part(w).codes;
      return v;
    } else {
      return experts<T>{};
    }
  }

 private:
  template <class U, class W>
  static void add_shared(mixture_weights<U>& v, W const& w) {
    if constexpr (!Frozen<W>)
      v.shared_gate = w.gate.data, v.shared_up = w.up.data, v.shared_down = w.down.data;
    if constexpr (requires { w.shared_gate; })
      if (C.shared_gate) v.shared_gate_weights = w.shared_gate.data;
  }
  template <class U, class W>
  static void add_routed(mixture_weights<U>& v, W const& w) {
    v.router = router_weights<U>(w);
    if constexpr (!Frozen<W>) v.gate = w.gate.data, v.up = w.up.data, v.down = w.down.data;
  }
};

}  // namespace device

template <class T, config C>
struct plan<basic_cuda<T>, shared_experts<C>> : device::mixture_plan<T, C, true, false> {};
template <class T, config C>
struct plan<basic_cuda<T>, routed_experts<C>> : device::mixture_plan<T, C, false, true> {};
template <class T, config C>
struct plan<basic_cuda<T>, mixture<C>> : device::mixture_plan<T, C, (C.shared > 0), true> {};

/// A dense block is a shared expert alone.
template <class T, int D, int F, glu Act>
struct plan<basic_cuda<T>, mlp<D, F, Act>>
    : device::mixture_plan<
          T, config{.hidden = D, .width = F, .routed = 1, .top_k = 1, .shared = 1, .act = Act},
          true, false, true> {};

/// x + mixture(rmsnorm(x)): the residual is added in the combine.
template <class T, int D, real_number Epsilon, config C>
struct plan<basic_cuda<T>, residual_of<then<rmsnorm<D, Epsilon>, mixture<C>>>>
    : device::normed_residual<T, D, plan<basic_cuda<T>, mixture<C>>> {
  using X = basic_cuda<T>;
  using layer = plan<X, mixture<C>>;
  using block = device::normed_residual<T, D, layer>;
  using typename block::saved, typename block::scratch;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    layer::check_dense(x, "x"), layer::check_dense(y, "y");
    p.scratch = scratch(p.scratch, p.extent).rest;
    device::norm<T>::forward(x, w.a.a.gain.data, static_cast<float>(Epsilon.value), s.rows,
                             s.inverse_rms, p.on.stream);
    layer::pass_of(p, w.a.b, s.inner, s.rows.data, layer::experts_of(p.on, w.a.b))
        .forward(x.data, y.data);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    layer::check_dense(dx, "dx");
    block::backward(p, w, s, x, dy, dw, dx);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
