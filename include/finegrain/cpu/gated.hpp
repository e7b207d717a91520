// gated: act(gate) * up for vectors of an expert's hidden numbers, and its gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"
#include "unit.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// The argument of the sigmoid in act(z) = z sigmoid(argument(z)), and its derivative: SiLU's is z
/// itself; GELU in its tanh form is z sigmoid(2 u), u as gelu_linear has it.
FINEGRAIN_INLINE vec argument(activation act, vec z) {
  if (act == activation::swiglu) return z;
  return float(2 * gelu_linear) * z * (1.0f + float(gelu_cubic) * z * z);
}
FINEGRAIN_INLINE vec argument_derivative(activation act, vec z) {
  if (act == activation::swiglu) return vec{} + 1.0f;
  return float(2 * gelu_linear) * (1.0f + float(3 * gelu_cubic) * z * z);
}

/// What is left of z in act(z) = z share(z), and the derivative of act from both. ReLU leaves all or
/// nothing.
FINEGRAIN_INLINE vec share(activation act, vec z) {
  if (act == activation::reglu) return z > 0.0f ? vec{} + 1.0f : vec{};
  return sigmoid(argument(act, z));
}
FINEGRAIN_INLINE vec derivative(activation act, vec z, vec s) {
  if (act == activation::reglu) return s;
  return s + z * s * (1.0f - s) * argument_derivative(act, z);
}

/// What counts of a gate and an up, as glu has it, and what of their gradients passes: 1 or 0. A lane
/// that is not a number stays one.
struct bounded {
  vec gate, up, gate_passes, up_passes;
};
FINEGRAIN_INLINE bounded within(glu act, vec gate, vec up) {
  vec const one = vec{} + 1.0f, most = vec{} + act.limit;
  if (!act.limited()) return {gate, up, one, one};
  auto const high = gate > most, over = up > most, under = up < -most;
  return {high ? most : gate,
          over    ? most
          : under ? -most
                  : up,
          high ? vec{} : one, (over | under) ? vec{} : one};
}

FINEGRAIN_INLINE void store_up_to(float* p, vec v, std::int64_t n) {
  n >= lanes ? store(p, v) : store_first(p, v, n);
}
/// The first n lanes, and zeros.
FINEGRAIN_INLINE vec first_of(vec v, std::int64_t n) {
  if (n >= lanes) return v;
  float all[lanes];
  store(all, v);
  return load_first(all, n);
}

/// Units of a vector's first n numbers.
template <format F>
FINEGRAIN_INLINE void keep(vec v, std::int64_t n, float* to) {
  if (n >= lanes) return unit<F>::take(v, to);
  float all[lanes];
  store(all, v);
  unit<F>::take(all, n, to);
}

/// act(gate) * up for a vector's columns, the first n of which count; gate and up as a product left
/// them; kept where asked.
template <format F>
FINEGRAIN_INLINE vec gated_forward(glu act, float const* sums, std::int64_t n, float* gate,
                                   float* up) {
  vec const g = load(sums), u = load(sums + lanes);
  if (gate) {
    keep<F>(g, n, gate);
    keep<F>(u, n, up);
  }
  auto const z = within(act, g, u);
  return z.gate * share(act.kind, z.gate) * z.up;
}
/// From dh (n columns), the gradient before the slot's weight w: dgate, dup, hidden * w. Returns
/// the sum of dh * hidden, lane by lane: the weight's gradient. gate and up are as they were kept.
template <format F>
vec gated_backward(glu act, float const* dh, std::int64_t n, float w, float const* gate,
                   float const* up, float* dgate, float* dup, float* hidden) {
  vec dot{};
  for (std::int64_t c = 0; c < n; c += lanes) {
    std::int64_t const at = c / unit<F>::numbers;
    auto const z =
        within(act, unit<F>::numbers_of(gate + at, n - c), unit<F>::numbers_of(up + at, n - c));
    vec const d = load(dh + c), g = z.gate, u = z.up;
    vec const s = share(act.kind, g), a = g * s, slope = derivative(act.kind, g, s);
    dot += d * a * u;
    vec dg = w * d * u * slope, du = w * d * a;
    if (act.limited()) dg *= z.gate_passes, du *= z.up_passes;
    store_up_to(dgate + c, dg, n - c);
    store_up_to(dup + c, du, n - c);
    store_up_to(hidden + c, w * a * u, n - c);
  }
  return dot;
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
