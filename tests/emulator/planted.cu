// Kernels with one fault each, which the emulator must find, and one without.
// SPDX-License-Identifier: Apache-2.0
#include "planted.hpp"

namespace planted {
namespace {

__device__ int arrived;  // blocks of two

// Of 64 threads, two warps, each gives its number to its neighbour of the other warp.
template <bool First, bool Second>
__global__ void exchange(float* to, float const* from) {
  __shared__ float between[64];
  float x = from[threadIdx.x];
  for (int round = 0; round < 2; ++round) {
    between[threadIdx.x] = x;
    if (First) __syncthreads();
    x = between[threadIdx.x ^ 32];
    if (Second) __syncthreads();
  }
  to[threadIdx.x] = x;
}
__global__ void read_then_written(float* to, float const* from) {
  __shared__ float some[64];
  some[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = some[threadIdx.x % 32];
  if (threadIdx.x >= 32) some[threadIdx.x - 32] = 1;
}
__global__ void beyond(float* to) { to[threadIdx.x + 1] = 1; }
__global__ void unaligned(float* to) { *reinterpret_cast<float2*>(to + 1) = {1, 2}; }
__global__ void shared_beyond(float* to) {
  extern __shared__ float all[];
  all[threadIdx.x] = 1;
  to[threadIdx.x] = all[threadIdx.x ^ 1];
}
__global__ void shared_unwritten(float* to) {
  __shared__ float some[64];
  if (threadIdx.x != 63) some[threadIdx.x] = 1;
  __syncthreads();
  to[threadIdx.x] = some[threadIdx.x];
}
template <bool Wait>
__global__ void copied(float* to, float const* from) {
  __shared__ float some[64];
  auto const at = static_cast<unsigned>(__cvta_generic_to_shared(some + threadIdx.x));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from + threadIdx.x));
  asm volatile("cp.async.commit_group;");
  if (Wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
  to[threadIdx.x] = some[threadIdx.x];
}
// Of 9.0: the engine copies 64 numbers for warp 0, and then to the same place for warp 1.
template <bool Wait, bool Meet>
__global__ void bulk_copied(float* to, float const* from) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ alignas(16) float some[64];
  __shared__ unsigned long long barrier;
  auto const at = static_cast<unsigned>(__cvta_generic_to_shared(some));
  auto const arrivals = static_cast<unsigned>(__cvta_generic_to_shared(&barrier));
  if (threadIdx.x == 0)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(arrivals) : "memory");
  __syncthreads();
  for (int phase = 0; phase < 2; ++phase) {
    if (threadIdx.x == 32 * phase) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 256;" ::"r"(arrivals)
                   : "memory");
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, "
          "[%2];" ::"r"(at),
          "l"(from), "r"(arrivals)
          : "memory");
    }
    if (Wait)
      asm volatile(
          "{\n.reg .pred done;\nagain:\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
              arrivals),
          "r"(phase)
          : "memory");
    to[threadIdx.x] = some[threadIdx.x];
    if (Meet) __syncthreads();
  }
#endif
}
__global__ void alone_at_barrier() {
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
}
__global__ void absent_lane(float* to) {
  if (threadIdx.x < 16) to[threadIdx.x] = __shfl_sync(0xffff, float(threadIdx.x), 20);
}
// Of two blocks, each writes 32 numbers, and the last one reads the other's and gives back its own.
template <bool Fence>
__global__ void last_of_two(float* to, float const* from) {
  __shared__ int before;
  int const mine = 32 * blockIdx.x + threadIdx.x;
  to[mine] = from[mine ^ 32];
  __syncthreads();
  if (threadIdx.x == 0) {
    if (Fence) __threadfence();
    before = atomicAdd(&arrived, 1);
    if (before) arrived = 0;
    if (Fence) __threadfence();
  }
  __syncthreads();
  if (before == 0) return;
  float const others = to[mine ^ 32];
  to[mine ^ 32] = to[mine];
  to[mine] = others;
}
template <bool Same>
__global__ void blocks_write(float* to, float const* from) {
  to[threadIdx.x] = from[threadIdx.x] + (Same ? 0 : blockIdx.x);
}
__global__ void block_reads(float* to, float* from) {
  if (blockIdx.x == 0)
    to[threadIdx.x] = from[threadIdx.x];
  else
    from[threadIdx.x] = 1;
}
__global__ void warp_reads(float* to) {
  to[threadIdx.x] = 1;
  if (threadIdx.x >= 32) to[threadIdx.x] = to[threadIdx.x - 32];
}
// A launch that may begin before the one that copies to `to` has ended.
__global__ void copy_all(float* to, float const* from) { to[threadIdx.x] = from[threadIdx.x]; }
template <bool Wait>
__global__ void read_after(float* to) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (Wait) cudaGridDependencySynchronize();
  to[threadIdx.x] += 0;
#endif
}
template <bool Wait>
void copy_and_read(float* to, float const* from) {
  copy_all<<<1, 64>>>(to, from);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = 1;
  config.blockDim = 64;
  config.attrs = &overlap;
  config.numAttrs = 1;
  void* arguments[] = {&to};
  cudaLaunchKernelExC(&config, reinterpret_cast<void const*>(read_after<Wait>), arguments);
}
__global__ void unknown_instruction(int* to) { *to = __dp4a(*to, 1, 2); }

}  // namespace

void run(what which, float* to, float const* from) {
  switch (which) {
    case what::nothing: exchange<true, true><<<1, 64>>>(to, from); break;
    case what::copies: copied<true><<<1, 64>>>(to, from); break;
    case what::read_too_early: exchange<false, true><<<1, 64>>>(to, from); break;
    case what::written_again: exchange<true, false><<<1, 64>>>(to, from); break;
    case what::read_then_written: read_then_written<<<1, 64>>>(to, from); break;
    case what::write_beyond: beyond<<<1, 64>>>(to); break;
    case what::not_aligned: unaligned<<<1, 1>>>(to); break;
    case what::shared_beyond: shared_beyond<<<1, 64, 63 * sizeof(float)>>>(to); break;
    case what::shared_unwritten: shared_unwritten<<<1, 64>>>(to); break;
    case what::copy_not_awaited: copied<false><<<1, 64>>>(to, from); break;
    case what::alone_at_barrier: alone_at_barrier<<<1, 64>>>(); break;
    case what::absent_lane: absent_lane<<<1, 32>>>(to); break;
    case what::last_block: last_of_two<true><<<2, 32>>>(to, from); break;
    case what::last_block_without_fences: last_of_two<false><<<2, 32>>>(to, from); break;
    case what::blocks_write_the_same: blocks_write<true><<<2, 64>>>(to, from); break;
    case what::blocks_write_one_place: blocks_write<false><<<2, 64>>>(to, from); break;
    case what::block_writes_what_another_read:
      block_reads<<<2, 32>>>(to, const_cast<float*>(from));
      break;
    case what::warp_reads_too_early: warp_reads<<<1, 64>>>(to); break;
    case what::waits_for_launch: copy_and_read<true>(to, from); break;
    case what::reads_before_launch_ahead_ended: copy_and_read<false>(to, from); break;
    case what::bulk_copies: bulk_copied<true, true><<<1, 64>>>(to, from); break;
    case what::bulk_not_awaited: bulk_copied<false, true><<<1, 64>>>(to, from); break;
    case what::bulk_over_readers: bulk_copied<true, false><<<1, 64>>>(to, from); break;
    case what::unknown: unknown_instruction<<<1, 1>>>(reinterpret_cast<int*>(to)); break;
  }
}

}  // namespace planted
