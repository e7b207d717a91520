// gated: an expert's activation in registers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// act(z) = z s, s = 1 / (1 + 2^e), e = z (linear + cubic z^2). That is SiLU, and GELU's tanh form. It
/// is ReLU where linear is so steep that s is 1 above 0, and 0 below.
struct gate_function {
  static constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f,
                         steep = -0x1p100f;
  float linear = -log2_e, cubic = 0, limit = 0;

  FINEGRAIN_HD explicit constexpr gate_function(glu g) : limit(g.limit) {
    if (g.kind == activation::swiglu) return;
    linear = g.kind == activation::reglu ? steep : -log2_e * 2 * float(gelu_linear);
    cubic = g.kind == activation::reglu ? 0 : linear * float(gelu_cubic);
  }
  FINEGRAIN_HD constexpr bool is_step() const { return linear == steep; }
  FINEGRAIN_HD constexpr bool limited() const { return limit > 0; }

#if defined(__CUDACC__)
  __device__ float operator()(float z) const {
    return __fdividef(z, 1 + exp2f(z * (linear + cubic * z * z)));
  }
  /// Values and derivatives at two numbers, of any of the three.
  __device__ void at(float const (&z)[2], float (&value)[2], float (&slope)[2]) const {
    if (is_step())
      of_step(z, value, slope);
    else
      of_curve<true>(z, value, slope);
  }
  /// Of ReLU.
  __device__ static void of_step(float const (&z)[2], float (&value)[2], float (&slope)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) slope[i] = z[i] > 0 ? 1 : 0, value[i] = z[i] * slope[i];
  }
  /// Of the others. Both numbers share a reciprocal, of the product of their 1 + 2^e, which are
  /// below 2^63 each. `is_cubic` false: cubic is known to be 0.
  template <bool is_cubic>
  __device__ void of_curve(float const (&z)[2], float (&value)[2], float (&slope)[2]) const {
    float factor[2], sum[2], inverse;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      factor[i] = is_cubic ? cubic * z[i] * z[i] : 0;
      float const e = z[i] * (is_cubic ? linear + factor[i] : -log2_e);
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(sum[i]) : "f"(fminf(e, 62)));
      sum[i] += 1;
    }
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(sum[0] * sum[1]));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float const s = inverse * sum[1 - i];
      float const rise = is_cubic ? -ln_2 * (linear + 3 * factor[i]) : 1;  // e's, of base e
      value[i] = z[i] * s;
      slope[i] = s + value[i] * (1 - s) * rise;
    }
  }
#endif
};

#if defined(__CUDACC__)
/// Brings a gate and its up within a limit, unless they are no numbers. Returns what lay beyond: 1, the
/// gate; 2, the up; 3, both.
__device__ inline unsigned bring_within(float limit, float& gate, float& up) {
  bool const high = gate > limit, far = fabsf(up) > limit;
  if (high) gate = limit;
  if (far) up = copysignf(limit, up);
  return (high ? 1u : 0u) | (far ? 2u : 0u);
}
/// The same of N, two bits each.
template <int N>
__device__ unsigned bring_within(float limit, float* gate, float* up) {
  unsigned beyond = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    unsigned const bits = bring_within(limit, gate[i], up[i]);
    if constexpr (N <= 16) beyond |= bits << 2 * i;
  }
  return beyond;
}
/// No gradient passes what lay beyond.
template <int N>
__device__ void stop_beyond(unsigned beyond, float* dgate, float* dup) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (beyond >> 2 * i & 1) dgate[i] = 0;
    if (beyond >> 2 * i & 2) dup[i] = 0;
  }
}

/// act(z) as products of few tokens have it: of one number, and of ReLU below 0 a zero.
__device__ inline float activate(activation act, float z) {
  if (act == activation::swiglu) return z / (1 + __expf(-z));
  if (act == activation::reglu) return z * (z > 0 ? 1.f : 0.f);
  float const u = float(gelu_linear) * (z + float(gelu_cubic) * z * z * z);
  return z / (1 + __expf(-2 * u));
}
/// act(z) up of one number, as products of few tokens have it.
__device__ inline float gate_one(glu g, float z, float up) {
  if (g.limit > 0) bring_within(g.limit, z, up);
  return activate(g.kind, z) * up;
}
#endif

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
