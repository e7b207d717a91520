// gated: an expert's activation in registers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// act(z) = z s, s = 1 / (1 + 2^e), e = z (linear + cubic z^2). That is SiLU, and GELU's tanh form,
/// since (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), u = a (z + b z^3), a^2 = 2 / pi.
struct gate_function {
  static constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;
  float linear = -log2_e, cubic = 0;

  FINEGRAIN_HD explicit constexpr gate_function(activation act) {
    if (act == activation::swiglu) return;
    linear *= 2 * 0.7978845608028653559f;
    cubic = linear * 0.044715f;
  }

#if defined(__CUDACC__)
  __device__ float operator()(float z) const {
    return __fdividef(z, 1 + exp2f(z * (linear + cubic * z * z)));
  }
  /// Values and derivatives at two numbers. These share a reciprocal, of the product of both
  /// 1 + 2^e, which are below 2^63 each. `is_cubic` false: cubic is known to be 0.
  template <bool is_cubic = true>
  __device__ void at(float const (&z)[2], float (&value)[2], float (&slope)[2]) const {
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

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
