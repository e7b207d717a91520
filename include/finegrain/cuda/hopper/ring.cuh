// ring: buffers that a producer warpgroup fills for two consumer warpgroups of backward's products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/mma.cuh"
#include "../tile/number.cuh"
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

/// Warpgroup 0 says so, once, and warpgroup 1 waits for it.
__device__ inline void first_is_ahead() { asm volatile("bar.arrive 3, 256;" ::: "memory"); }
__device__ inline void wait_for_first() { asm volatile("bar.sync 3, 256;" ::: "memory"); }

/// Threads 0 .. 255 multiply, those from 256 on fill stages. The two CTAs of a cluster go through
/// their rings together: either may fill a part of a stage for both, once both have emptied it.
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
      barrier_init(full + 8 * (stages + i), 2 * 8);  // each consumer warp of both CTAs
    }
  }
  __device__ std::uint32_t a() const { return data + stage * bytes; }
  __device__ std::uint32_t b() const { return a() + a_bytes; }
  __device__ std::uint32_t filled() const { return full + 8 * stage; }
  __device__ std::uint32_t emptied() const { return full + 8 * (stages + stage); }
  __device__ void wait_filled() const { wait(filled(), phase); }
  __device__ void wait_emptied() const { wait(emptied(), phase ^ 1); }
  /// As multiply, where nothing is to be summed.
  __device__ void pass(int steps) {
    for (int i = 0; i < steps; ++i) {
      wait_filled();
      release(emptied());
      advance();
    }
  }
  __device__ void advance() {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }

  /// sums = A B over `steps` stages, for rows 64 w .. 64 w + 63 and the first 2 * registers columns.
  /// B is MN-major. `gathered`: threads wrote one of them. At step `signal`, or at the end, the other
  /// warpgroup is told; never where it is below 0.
  template <class T, int a_mn_major, bool gathered, int registers>
  __device__ void multiply_columns(float (&sums)[128], int w, int steps, int signal) {
    auto& some = reinterpret_cast<float(&)[registers]>(sums);
#pragma unroll
    for (float& sum : some) sum = 0;
    std::uint32_t last = 0;  // the stage that may still be read
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      if (i == signal) first_is_ahead();
      wait_filled();
      if constexpr (gathered) fence_panels();
      auto const rows = a() + w * panel_64;
      auto const a_tile = a_mn_major ? mn_major(rows, panel_64) : k_major(rows);
      auto const b_tile = mn_major(b(), panel_64);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma<a_mn_major, 1, T>(some, a_tile + k * (a_mn_major ? k_step_mn_major : k_step_k_major),
                                b_tile + k * k_step_mn_major, true);
      wgmma_commit();
      wgmma_wait<1>();
      if (i > 0) release(last);
      last = emptied();
      advance();
    }
    wgmma_wait<0>();
    if (steps > 0) release(last);
    if (signal >= steps) first_is_ahead();
  }
  template <class T, int a_mn_major, bool gathered>
  __device__ void multiply(float (&sums)[128], int w, int steps, int columns, int signal = -1) {
    if (columns > 128)
      multiply_columns<T, a_mn_major, gathered, 128>(sums, w, steps, signal);
    else
      multiply_columns<T, a_mn_major, gathered, 64>(sums, w, steps, signal);
  }
};

/// Two, of the addresses of lanes 0 .. 15.
__device__ inline void store_two_matrices(std::uint32_t row, std::uint32_t m0, std::uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(m0),
               "r"(m1)
               : "memory");
}
/// Columns 64 n .. 64 n + 63 of a warpgroup's sums (64, 256) to a panel of 64 rows; or transposed, to
/// a panel whose rows are columns of the sums. With `add`, what stands there is added: in place, and
/// without __syncwarp, as in gate_backward.
template <class T, bool transposed>
__device__ void stage_sums(float const (&sums)[128], int n, std::uint32_t panel, bool add) {
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    int const row = transposed ? j * 16 + lane / 16 * 8 + lane % 8 : warp * 16 + lane % 16;
    int const chunk = transposed ? warp * 2 + lane / 8 % 2 : j * 2 + lane / 16;
    std::uint32_t const at = panel + swizzled(row, chunk);
    float const* s = sums + 32 * n + 8 * j;
    std::uint32_t m[4];
    if (add) {
      std::uint32_t old[4];
      load_matrices<transposed>(old, at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 const before = unpack<T>(old[i]);
        m[i] = pack<T>(s[2 * i] + before.x, s[2 * i + 1] + before.y);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) m[i] = pack<T>(s[2 * i], s[2 * i + 1]);
    }
    if constexpr (transposed)
      store_matrices_transposed(at, m[0], m[1], m[2], m[3]);
    else
      store_matrices(at, m[0], m[1], m[2], m[3]);
  }
}

/// A warpgroup's sums on their way to memory, 64 columns at a time, as they are or transposed; onto
/// what is there if it was fetched. Some panels take turns, and have a barrier each for fetch.
template <class T, bool transposed, int some>
struct sums_store {
  std::uint32_t panels, fetched;
  unsigned asked = 0, turn = 0, phases = 0;

  __device__ static bool leads() { return threadIdx.x % 128 == 0; }
  __device__ void fetch(CUtensorMap const* map, int outer, int middle, int inner) {
    unsigned const which = asked++ % some;
    if (!leads()) return;
    store_wait_read<0>();
    arrive_and_expect(fetched + 8 * which, panel_64);
    load(panels + which * panel_64, map, outer, middle, inner, fetched + 8 * which);
  }
  __device__ void put(float const (&sums)[128], int n, bool add, CUtensorMap const* map, int outer,
                      int middle, int inner) {
    int const w = threadIdx.x / 128;
    unsigned const which = turn++ % some;
    std::uint32_t const panel = panels + which * panel_64;
    if (add) {
      wait(fetched + 8 * which, phases >> which & 1);
      phases ^= 1u << which;
    } else {
      if (leads()) store_wait_read<some - 1>();
      warpgroup_sync(w);
    }
    stage_sums<T, transposed>(sums, n, panel, add);
    fence_panels();
    warpgroup_sync(w);
    if (!leads()) return;
    store(map, outer, middle, inner, panel);
    store_commit();
  }
};

#endif

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
