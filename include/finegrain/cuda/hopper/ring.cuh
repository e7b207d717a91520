// ring: buffers that a producer warpgroup fills for two consumer warpgroups of backward's products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/tma.cuh"
#include "../tile/wgmma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::backward {

inline constexpr int consumers = 256;      // threads
inline constexpr int panel_64 = 64 * 128;  // bytes of a panel of 64 rows

/// A stage is A, 128 rows of the product, then B, 256 columns; both 64 deep.
template <int stages>
struct ring_shape {
  static constexpr int a_bytes = 2 * panel_64, b_bytes = 4 * panel_64, bytes = a_bytes + b_bytes;
  static constexpr int size = stages * bytes, barriers = 16 * stages;  // bytes
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Threads 0 .. 255 multiply, those from 256 on fill stages.
template <int stages>
struct ring : ring_shape<stages> {
  using ring_shape<stages>::bytes, ring_shape<stages>::a_bytes, ring_shape<stages>::b_bytes;

  std::uint32_t data, full;  // addresses
  int stage = 0;
  std::uint32_t phase = 0;

  __device__ ring(std::uint32_t data, std::uint32_t barriers) : data(data), full(barriers) {}
  __device__ void init(int producers) const {
    for (int i = 0; i < stages; ++i) {
      barrier_init(full + 8 * i, producers);
      barrier_init(full + 8 * (stages + i), 8);  // a lane of each consumer warp
    }
  }
  __device__ std::uint32_t a() const { return data + stage * bytes; }
  __device__ std::uint32_t b() const { return a() + a_bytes; }
  __device__ std::uint32_t filled() const { return full + 8 * stage; }
  __device__ std::uint32_t emptied() const { return full + 8 * (stages + stage); }
  __device__ void wait_filled() const { wait(filled(), phase); }
  __device__ void wait_emptied() const { wait(emptied(), phase ^ 1); }
  __device__ void advance() {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }

  /// sums = A B over `steps` stages, for rows 64 w .. 64 w + 63 and the first 2 * registers columns.
  /// B is MN-major. `gathered`: threads wrote one of them.
  template <int a_mn_major, bool gathered, int registers>
  __device__ void multiply_columns(float (&sums)[128], int w, int steps) {
    auto& some = reinterpret_cast<float(&)[registers]>(sums);
#pragma unroll
    for (float& sum : some) sum = 0;
    std::uint32_t last = 0;  // the stage that may still be read
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      wait_filled();
      if constexpr (gathered) fence_panels();
      auto const rows = a() + w * panel_64;
      auto const a_tile = a_mn_major ? mn_major(rows, panel_64) : k_major(rows);
      auto const b_tile = mn_major(b(), panel_64);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma<a_mn_major, 1>(some, a_tile + k * (a_mn_major ? k_step_mn_major : k_step_k_major),
                             b_tile + k * k_step_mn_major, true);
      wgmma_commit();
      wgmma_wait<1>();
      if (i > 0 && threadIdx.x % 32 == 0) arrive(last);
      last = emptied();
      advance();
    }
    wgmma_wait<0>();
    if (steps > 0 && threadIdx.x % 32 == 0) arrive(last);
  }
  template <int a_mn_major, bool gathered>
  __device__ void multiply(float (&sums)[128], int w, int steps, int columns) {
    if (columns > 128)
      multiply_columns<a_mn_major, gathered, 128>(sums, w, steps);
    else
      multiply_columns<a_mn_major, gathered, 64>(sums, w, steps);
  }
};

/// Two, of the addresses of lanes 0 .. 15.
__device__ inline void store_two_matrices(std::uint32_t row, std::uint32_t m0, std::uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(m0),
               "r"(m1)
               : "memory");
}
template <bool transposed>
__device__ void load_matrices(std::uint32_t row, std::uint32_t (&m)[4]) {
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row)
                 : "memory");
}
/// Two numbers as bf16, the first in the lower half; and back.
__device__ inline std::uint32_t packed_pair(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ inline float lower(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float upper(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// Columns 16 j .. 16 j + 15 of a warpgroup's sums (64, columns), j = 0 ..., to panels of 64 rows; or
/// transposed, to panels whose rows are columns of the sums. With `add`, what stands there is added.
template <bool transposed, int j0, int count, int registers>
__device__ void stage_sums(float const (&sums)[registers], std::uint32_t panel, bool add) {
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    int const row = transposed ? j % 4 * 16 + lane / 16 * 8 + lane % 8 : warp * 16 + lane % 16;
    int const chunk = transposed ? warp * 2 + lane / 8 % 2 : j % 4 * 2 + lane / 16;
    std::uint32_t const at = panel + j / 4 * panel_64 + swizzled(row, chunk);
    float const* s = sums + 8 * (j0 + j);
    std::uint32_t old[4] = {0, 0, 0, 0}, m[4];
    if (add) load_matrices<transposed>(at, old);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      m[i] = packed_pair(s[2 * i] + lower(old[i]), s[2 * i + 1] + upper(old[i]));
    if constexpr (transposed)
      store_matrices_transposed(at, m[0], m[1], m[2], m[3]);
    else
      store_matrices(at, m[0], m[1], m[2], m[3]);
  }
}

/// A warpgroup's sums (64, 256) on their way to memory through `staging`, 128 columns at a time, as
/// they are or transposed; onto what is there if it was fetched.
template <bool transposed>
struct sums_store {
  static constexpr int panels = 2;

  std::uint32_t staging, fetched;  // the barrier is for fetch alone
  std::uint32_t phase = 0;
  CUtensorMap const* map = nullptr;
  int outer = 0, row = 0, column = 0;

  __device__ bool leads() const { return threadIdx.x % 128 == 0; }
  __device__ int middle(int n) const { return transposed ? column + n * 64 : row; }
  __device__ int inner(int n) const { return transposed ? row : column + n * 64; }
  __device__ void at(CUtensorMap const* m, int o, int r, int c) {
    map = m, outer = o, row = r, column = c;
  }
  __device__ void fetch(int half) {
    if (!leads()) return;
    store_wait_read<0>();
    arrive_and_expect(fetched, panels * panel_64);
    for (int n = 0; n < panels; ++n)
      load(staging + n * panel_64, map, outer, middle(panels * half + n), inner(panels * half + n),
           fetched);
  }
  template <int half>
  __device__ void put(float const (&sums)[128], bool add) {
    int const w = threadIdx.x / 128;
    if (add) {
      wait(fetched, phase);
      phase ^= 1;
    } else {
      if (leads()) store_wait_read<0>();
      warpgroup_sync(w);
    }
    stage_sums<transposed, half * 8, 8>(sums, staging, add);
    fence_panels();
    warpgroup_sync(w);
    if (!leads()) return;
    for (int n = 0; n < panels; ++n)
      store(map, outer, middle(panels * half + n), inner(panels * half + n),
            staging + n * panel_64);
    store_commit();
  }
};

#endif

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
