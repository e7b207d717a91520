// fp8_products' results, from registers to memory: gated, and coded or in bf16, by panels of 16 rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fp8_loads.cuh"
#include "fp8_rows.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::fp8 {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// act(z) up for two columns. The two share a reciprocal: of both, and a factor below 2^64 each.
__device__ inline void gate(float (&z)[2], float const (&up)[2], float linear, float cubic) {
  float grown[2], inverse;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm("ex2.approx.ftz.f32 %0, %1;"
        : "=f"(grown[i])
        : "f"(fminf(z[i] * (linear + cubic * (z[i] * z[i])), 62)));
    grown[i] += 1;
  }
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(grown[0] * grown[1]));
  z[0] *= up[0] * (inverse * grown[1]);
  z[1] *= up[1] * (inverse * grown[0]);
}

/// A warp's 16 rows by 128 bytes to memory: words[2 c + h] is what a thread holds of chunk c (16
/// bytes) of row lane / 4 + 8 h. Two panels take turns.
__device__ inline void store_panel(std::uint32_t panel, int lane, CUtensorMap const* map, int row,
                                   int column, std::uint32_t const (&words)[16]) {
  if (lane == 0) store_wait_read<1>();
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16; i += 4)
    store_matrices(panel + swizzled(lane % 16, i / 2 + lane / 16), words[i], words[i + 1],
                   words[i + 2], words[i + 3]);
  fence_panels();
  __syncwarp();
  if (lane == 0) {
    store(map, row, 0, column, panel);
    store_commit();
  }
}

/// hidden of a warp's 16 rows, z (64 of the gate, 64 of up) a thread: gated, each row by its own
/// scale to e4m3, four neighbours in a word.
__device__ inline void hidden_codes(float (&z)[128], float linear, float cubic, float (&scale)[2],
                                    std::uint32_t (&words)[16]) {
  float most[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 64; i += 2) {
    gate(reinterpret_cast<float(&)[2]>(z[i]), reinterpret_cast<float(&)[2]>(z[64 + i]), linear,
         cubic);
    most[i / 2 % 2] = fmaxf(most[i / 2 % 2], fmaxf(fabsf(z[i]), fabsf(z[i + 1])));
  }
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
    most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2));
    scale_of(most[h], scale[h], inverse[h]);
  }
  // A thread has numbers 2 q, 2 q + 1, 2 q + 8 and 2 q + 9 of 16; it stores 4 q ... 4 q + 3.
  int const q = threadIdx.x % 4, from = q * 2 % 4;
  std::uint32_t const pick = q < 2 ? 0x5410 : 0x7632;
#pragma unroll
  for (int i = 0; i < 16; ++i) {  // chunk i / 2 of row i % 2
    float const* const x = z + i / 2 * 8 + i % 2 * 2;
    float const f = inverse[i % 2];
    std::uint32_t const mine = codes_of(x[0] * f, x[1] * f) | codes_of(x[4] * f, x[5] * f) << 16;
    std::uint32_t const low = __shfl_sync(~0u, mine, from, 4);
    std::uint32_t const high = __shfl_sync(~0u, mine, from + 1, 4);
    words[i] = __byte_perm(low, high, pick);
  }
}

#endif

}  // namespace device::hopper::fp8
}  // namespace finegrain::inline FINEGRAIN_ABI
