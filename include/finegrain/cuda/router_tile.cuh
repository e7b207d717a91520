// What a router's kernels share: numbers as bf16, and as two of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.cuh"
#include "tile/async.cuh"
#include "tile/mma.cuh"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline unsigned pair(bf16 low, bf16 high) {
  return low.bits | unsigned{high.bits} << 16;
}
/// Two numbers as bf16, and what that leaves of them as bf16: 16 bits of each number in all.
struct split_pair {
  unsigned high, low;
  __device__ split_pair(float a, float b) {
    bf16 const ha(a), hb(b);
    high = pair(ha, hb);
    low = pair(bf16(a - float(ha)), bf16(b - float(hb)));
  }
};

__device__ inline float first_of(unsigned two) { return __uint_as_float(two << 16); }
__device__ inline float second_of(unsigned two) { return __uint_as_float(two & 0xffff0000u); }

__device__ inline float rounded(float x) { return float(bf16(x)); }
template <class T>
__device__ inline float number(T x) {
  return static_cast<float>(x);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
