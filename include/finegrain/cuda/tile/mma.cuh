// mma.sync: products of small tiles in a warp's registers, and ldmatrix, which fills them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "number.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

// A warp's pieces of 16-bit matrices. Lane 4 g + c holds, two to a word:
//   a (16, 16), row-major      a[i]: row g + 8 (i & 1), columns 2 c + 8 (i >> 1) and the next
//   b (8, 16), its columns k   b[i]: row g, columns 2 c + 8 i and the next
//   sum (16, 8) = a b^T, f32   sum[i]: row g + 8 (i >> 1), column 2 c + (i & 1)

/// sum += a b^T
template <class T>
__device__ void multiply_add(float (&sum)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                             std::uint32_t b1) {
  static_assert(in_pairs<T>);
  if constexpr (std::is_same_v<T, fp16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
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
