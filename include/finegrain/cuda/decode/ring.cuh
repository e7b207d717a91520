// How the products of few tokens read weights, and how they are launched. Weights are the left
// operand of mma.sync, 16 rows of them, and tokens the right one; a lane reads 16-byte pieces of
// weights through a ring in shared memory that it shares with nobody, so that nothing but its own
// reads makes it wait.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "../../base/bounds.hpp"
#include "../overlap.cuh"
#include "../tile/async.cuh"
#include "../tile/mma.cuh"
#include "codes.cuh"
#include "products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

inline constexpr int warps = 8, threads = 32 * warps;
inline constexpr int step = 64;  // columns of 16 weight rows: 2 KB, a warp's turn

/// Starts to read what a lane has of a step, to `to` in shared memory.
template <class W>
__device__ void issue_step(std::uint32_t to, typename W::number const* low,
                           typename W::number const* high) {
  auto const load = [](std::uint32_t to, void const* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
  };
  if constexpr (W::scale == scales::inside) {
#pragma unroll
    for (int i = 0; i < W::pieces; ++i) load(to + i * 512, low + 512 * i);
    int const lane = static_cast<int>(threadIdx.x) % 32;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to + W::pieces * 512 - 8 * lane),
                 "l"(__cvta_generic_to_global(low + W::pieces * 512 - 16 * lane + lane / 4 * 8))
                 : "memory");
  } else {
    constexpr int of_row = W::pieces / 2;
#pragma unroll
    for (int i = 0; i < of_row; ++i) {
      load(to + i * 512, low + 32 * i);
      load(to + (of_row + i) * 512, high + 32 * i);
    }
  }
}
__device__ inline uint4 read_shared(std::uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

/// What a lane has of a step, at `from` in shared memory, in mma order: a[i] is the left operand of
/// 16 columns.
template <class W>
__device__ void take_step(std::uint32_t (&a)[4][4], std::uint32_t from) {
  std::uint32_t word[W::pieces][4];
#pragma unroll
  for (int i = 0; i < W::pieces; ++i) {
    uint4 const v = read_shared(from + i * 512);
    word[i][0] = v.x, word[i][1] = v.y, word[i][2] = v.z, word[i][3] = v.w;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if constexpr (W::pieces == 4) {
      for (int half = 0; half < 2; ++half) {
        std::uint32_t const(&from_row)[4] = word[j / 2 + 2 * half];
        a[j][half] = from_row[j % 2 * 2], a[j][half + 2] = from_row[j % 2 * 2 + 1];
      }
    } else if constexpr (W::pieces == 2) {
      W::decode(word[0][j], a[j][0], a[j][2]);
      W::decode(word[1][j], a[j][1], a[j][3]);
    } else {
      for (int half = 0; half < 2; ++half) {
        std::uint32_t const eight = word[0][2 * half + j / 2];
        a[j][half] = W::pair(eight, j % 2 * 2), a[j][half + 2] = W::pair(eight, j % 2 * 2 + 1);
      }
    }
}
/// The scales of rows (g, g + 8) in a step's halves.
template <class W>
__device__ void take_step_scales(float (&scale)[2][2], std::uint32_t from) {
  std::uint32_t word[2];
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
               : "=r"(word[0]), "=r"(word[1])
               : "r"(from + W::pieces * 512 - threadIdx.x % 32 * 8)
               : "memory");
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float2 const two = unpack<bf16>(word[i]);
    scale[i][0] = W::unit * two.x, scale[i][1] = W::unit * two.y;
  }
}

/// A lane's ring of Depth stages of weights W. A stage is a step of Blocks times 16 weight rows, of
/// which lane 4 g + c has its part of rows g and g + 8: any order of columns does, as long as both
/// operands have the same.
template <class W, int Blocks, int Depth>
struct ring {
  using number = typename W::number;
  static constexpr int block_bytes = W::step_bytes;
  static constexpr int stage_bytes = Blocks * block_bytes, warp_bytes = Depth * stage_bytes;
  std::uint32_t at, end;

  __device__ explicit ring(void* memory)
      : at(shared_address(memory) + threadIdx.x / 32 * warp_bytes + threadIdx.x % 32 * 16),
        end(at + warp_bytes) {}

  /// Starts to read 16 rows' columns, of which low and high are this lane's first; `left` columns
  /// are left from there on. Codes' rows are as long as whole steps.
  __device__ void issue(int block, number const* low, number const* high, int left) {
    if constexpr (W::scale != scales::none) {
      issue(block, low, high);
    } else {
      std::uint32_t const to = at + static_cast<std::uint32_t>(block * block_bytes);
      left -= lane_column<W>();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_async(to + i * 512, left > 32 * i ? low + 32 * i : nullptr);
        load_async(to + (2 + i) * 512, left > 32 * i ? high + 32 * i : nullptr);
      }
    }
  }
  /// The same where a whole step is left.
  __device__ void issue(int block, number const* low, number const* high) {
    issue_step<W>(at + static_cast<std::uint32_t>(block * block_bytes), low, high);
  }
  __device__ void next() {
    commit_async();
    at += stage_bytes;
    if (at == end) at -= warp_bytes;
  }

  /// The oldest stage's numbers in mma order: a[i] is the left operand of 16 columns.
  __device__ void wait() const { wait_async<Depth - 1>(); }
  __device__ void take(std::uint32_t (&a)[4][4], int block) const {
    std::uint32_t const from = at + static_cast<std::uint32_t>(block * block_bytes);
    take_step<W>(a, from);
  }
  /// The scales of rows (g, g + 8) in the step's halves.
  __device__ void take_scales(float (&scale)[2][2], int block) const {
    take_step_scales<W>(scale, at + static_cast<std::uint32_t>(block * block_bytes));
  }
};

/// Tells the warps of a block how far the others are: a barrier that a warp passes when all have
/// arrived the time before, so that none waits for one less than a unit behind.
struct relay {
  std::uint32_t barrier;

  __device__ explicit relay(void* memory) : barrier(shared_address(memory)) {
    if (threadIdx.x == 0)
      asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(warps) : "memory");
    __syncthreads();
  }
  __device__ void arrive() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0)
      asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
                   : "memory");
  }
  /// Until all have arrived `turn` + 1 times.
  __device__ void wait(int turn) const {
    int done = 0;
    while (!done)
      asm volatile(
          "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.s32 %0, 1, 0, p; "
          "}"
          : "=r"(done)
          : "r"(barrier), "r"(turn & 1)
          : "memory");
  }
};

/// A step of a token's row for weights W, of which `row` is this lane's first column; zeros where
/// none are left.
template <class W>
__device__ void load_row(uint4 (&b)[2], uint4 const* row, int left) {
  bool const whole = left >= step;
  left -= lane_column<W>();
  b[0] = whole || left > 0 ? row[0] : uint4{};
  b[1] = whole || left > W::further ? row[W::further / 8] : uint4{};
}
template <class T>
__device__ void multiply_step(float (&sum)[4], std::uint32_t const (&a)[4][4],
                              uint4 const (&b)[2]) {
  multiply_add<T>(sum, a[0], b[0].x, b[0].y);
  multiply_add<T>(sum, a[1], b[0].z, b[0].w);
  multiply_add<T>(sum, a[2], b[1].x, b[1].y);
  multiply_add<T>(sum, a[3], b[1].z, b[1].w);
}
/// sum += a b^T of half a step, times rows' scales.
template <class T>
__device__ void multiply_half(float (&sum)[4], std::uint32_t const (&a0)[4],
                              std::uint32_t const (&a1)[4], uint4 b, float const (&scale)[2]) {
  float part[4] = {};
  multiply_add<T>(part, a0, b.x, b.y);
  multiply_add<T>(part, a1, b.z, b.w);
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] += scale[i / 2] * part[i];
}
/// A step's products times rows' scales, where these differ from step to step.
template <class T, class W>
__device__ void multiply_scaled(float (&sum)[4], std::uint32_t const (&a)[4][4],
                                uint4 const (&b)[2], float const (&scale)[2][2]) {
  if constexpr (W::scale == scales::none || W::scale == scales::row) {
    multiply_step<T>(sum, a, b);
  } else if constexpr (W::scale == scales::square) {
    float part[4] = {};
    multiply_step<T>(part, a, b);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += scale[0][i / 2] * part[i];
  } else {
    multiply_half<T>(sum, a[0], a[1], b[0], scale[0]);
    multiply_half<T>(sum, a[2], a[3], b[1], scale[1]);
  }
}

struct machine {
  int processors = 0, shared_bytes = 0;  // bytes that a block can have
  machine() {
    int device = 0;
    check(cudaGetDevice(&device), "asking for the device");
    auto const ask = [device](int& value, cudaDeviceAttr what) {
      check(cudaDeviceGetAttribute(&value, what, device), "asking for a device's attribute");
    };
    ask(processors, cudaDevAttrMultiProcessorCount);
    ask(shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  }
};

/// As many blocks as run at once, or fewer when there is less to do.
template <class... P>
void launch(void (*kernel)(P...), int threads, std::int64_t units, int bytes, machine const& on,
            CUstream_st* stream, char const* name, P const&... arguments) {
  int resident = 0;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads,
                                                      static_cast<std::size_t>(bytes)),
        name);
  auto const blocks =
      at_most<std::int64_t>(units, std::int64_t{on.processors} * at_least(resident, 1));
  launch_overlapping(kernel, dim3(static_cast<unsigned>(blocks)), threads, bytes, stream, name,
                     arguments...);
}

}  // namespace decode

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
