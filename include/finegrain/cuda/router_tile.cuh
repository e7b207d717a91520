// What a router's kernels share: numbers as two of 16 bits, or rounded to bf16.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.cuh"
#include "tile/async.cuh"
#include "tile/mma.cuh"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline constexpr unsigned all_lanes = 0xffffffffu;

/// Two numbers as T, and what that leaves of them as T: 16 bits of each number in all, or 22.
template <class T>
struct split_pair {
  unsigned high, low;
  __device__ split_pair(float a, float b) : high(pack<T>(a, b)) {
    float2 const had = unpack<T>(high);
    low = pack<T>(a - had.x, b - had.y);
  }
};

__device__ inline float rounded(float x) { return float(bf16(x)); }
template <class T>
__device__ inline float number(T x) {
  return load_one(&x);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
