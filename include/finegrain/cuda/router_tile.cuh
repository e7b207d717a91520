// The tensor cores' instructions that a router's small products are made of (bf16, from sm_80).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline constexpr unsigned all_lanes = 0xffffffffu;

/// c (16, 8) += a (16, 16) b (16, 8). Lane l has, with g = l / 4 and q = l % 4: of a rows g, g + 8
/// in columns 2q, 2q + 1 (a0, a1) and 2q + 8, 2q + 9 (a2, a3); of b the same columns' rows in column
/// g (b0, b1); of c rows g (c0, c1) and g + 8 (c2, c3) in columns 2q, 2q + 1.
__device__ inline void multiply_add(float (&c)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/// Four 8 x 8 matrices of 16-bit numbers in shared memory, transposed: lanes 8i to 8i + 7 point to
/// the rows of matrix i.
__device__ inline void load_transposed(unsigned (&m)[4], void const* row) {
  auto const at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(at)
               : "memory");
}

/// The same, not transposed.
__device__ inline void load_matrices(unsigned (&m)[4], void const* row) {
  auto const at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(at)
               : "memory");
}

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

template <class Number>
__device__ inline Number sum_of_warp(Number x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(all_lanes, x, step);
  return x;
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
