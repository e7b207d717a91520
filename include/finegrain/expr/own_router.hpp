// Experts whose logits a router of your own makes: mixture<C, Router>, with any expression as Router.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cost.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// C where logits are made before the layer's router begins.
constexpr config with_given_logits(config c) {
  c.given_logits = true;
  return c;
}

/// Routed experts, chosen and weighed by the logits (T, R) that Router makes of x (T, D). All that
/// comes behind logits is as C says: scores, choice, weights, capacities, losses. Router is an
/// expression, of the library's stages or your own; its weights are router.*.
template <config C, Expr Router>
struct routed_experts<C, Router> : stage<C.hidden> {
  static_assert(valid<C>);
  static_assert(same_width<in_width<Router>(), C.hidden>,
                "mixture<C, Router>: the router must expect the layer's hidden numbers");
  static_assert(same_width<out_width<Router>(), C.routed>,
                "mixture<C, Router>: the router must produce a logit for each routed expert");
  static_assert(!detail::has_router<Router>(),
                "mixture<C, Router>: the router can hold no mixture: a layer writes one report");
  static_assert(
      C.has_router() && C.cosine == 0 && !C.jitter && !C.noisy && C.precision == precision::f32,
      "mixture<C, Router>: uniform, selection::given, cosine, jitter, noisy and precision "
      "say how a config's router makes logits; one of your own takes its place");
  static constexpr char const* name = "routed_experts";
  static constexpr config layer = C;
  template <class T>
  struct weights : routed_weights<T> {
    finegrain::weights<Router, T> own;
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : routed_weights<T>(bind, with_given_logits(C)), own(bound(bind)) {}

   private:
    template <class Bind>
    static constexpr finegrain::weights<Router, T> bound(Bind& bind) {
      bind.enter("router");
      finegrain::weights<Router, T> all(bind);
      bind.leave();
      return all;
    }
  };
  static constexpr std::int64_t extra_flops(std::int64_t tokens) {
    return flops(Router{}, tokens) - 2 * active_parameters(Router{}) * tokens;
  }
  static constexpr std::int64_t cache = cache_width(Router{});
};

}  // namespace finegrain::inline FINEGRAIN_ABI
