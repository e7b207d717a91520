// mma.sync: products of small tiles in a warp's registers, and ldmatrix, which fills them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Two neighbours of a row as they are stored, the left one below.
template <class T>
__device__ std::uint32_t pack(float left, float right);
template <>
__device__ inline std::uint32_t pack<bf16>(float left, float right) {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(right), "f"(left));
  return word;
}
template <class T>
__device__ float2 unpack(std::uint32_t word);
template <>
__device__ inline float2 unpack<bf16>(std::uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

/// Eight of them: 16 bytes.
template <class T>
__device__ uint4 pack(float const (&from)[8]) {
  return {pack<T>(from[0], from[1]), pack<T>(from[2], from[3]), pack<T>(from[4], from[5]),
          pack<T>(from[6], from[7])};
}
template <class T>
__device__ void unpack(float (&to)[8], uint4 from) {
  std::uint32_t const words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 const two = unpack<T>(words[i]);
    to[2 * i] = two.x, to[2 * i + 1] = two.y;
  }
}

template <class T>
__device__ uint4 load_eight(T const* from) {
  return *reinterpret_cast<uint4 const*>(from);
}
template <class T>
__device__ void store_eight(T* to, uint4 eight) {
  *reinterpret_cast<uint4*>(to) = eight;
}

// A warp's pieces of 16-bit matrices. Lane 4 g + c holds, two to a word:
//   a (16, 16), row-major      a[i]: row g + 8 (i & 1), columns 2 c + 8 (i >> 1) and the next
//   b (8, 16), its columns k   b[i]: row g, columns 2 c + 8 i and the next
//   sum (16, 8) = a b^T, f32   sum[i]: row g + 8 (i >> 1), column 2 c + (i & 1)

/// sum += a b^T
template <class T>
__device__ void multiply_add(float (&sum)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                             std::uint32_t b1);
template <>
__device__ inline void multiply_add<bf16>(float (&sum)[4], std::uint32_t const (&a)[4],
                                          std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit numbers from shared memory: lane 8 i + j gives the address of row
/// j of matrix i. Lane 4 g + c gets row g, columns 2 c and 2 c + 1, of each; transposed: column g,
/// rows 2 c and 2 c + 1.
template <bool Transposed>
__device__ void load_matrices(std::uint32_t (&to)[4], std::uint32_t address) {
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
