// gated: an expert's activation in registers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// act(z) and its derivative. Both activations are z sigmoid(v): v = z is SiLU, and GELU's tanh
/// form is v = 2 a (z + b z^3), since (1 + tanh(u)) / 2 = sigmoid(2 u).
struct activated {
  float value, derivative;
};
__device__ inline activated activation_at(activation act, float z) {
  float v = z, dv = 1.0f;
  if (act == activation::geglu) {
    constexpr float a2 = 2 * 0.7978845608028653559f, b = 0.044715f;  // a = sqrt(2 / pi)
    v = a2 * (z + b * z * z * z);
    dv = a2 * (1.0f + 3.0f * b * z * z);
  }
  float const s = __fdividef(1.0f, 1.0f + __expf(-v));
  return {z * s, s + z * s * (1.0f - s) * dv};
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
