// tma: copies of tiles between memory and shared memory by the copy engine of compute capability
// 9.0, the barriers in shared memory that count them, and gathers of rows by threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../memory.cuh"
#include "async.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

// --- On the host: maps of matrices. ---

/// The driver's encoder, found through the runtime: programs need not link to the driver. Null
/// where there is no driver.
inline decltype(&cuTensorMapEncodeTiled) map_encoder() {
  static auto const encoder = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      static_cast<void>(cudaGetLastError());
      found = nullptr;
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return encoder;
}

/// Numbers of 2 bytes, or 1, (outer, middle, inner), inner ones side by side, the strides in numbers
/// and multiples of 16 bytes; tiles are (box_outer, box_middle, 128 bytes), in shared memory a panel
/// of rows of 128 bytes, swizzled. What a tile has beyond the array is read as zeros and not written.
struct array_3d {
  void const* data = nullptr;
  std::int64_t inner = 0, middle = 1, outer = 1;
  std::int64_t middle_stride = 0, outer_stride = 0;
  int box_middle = 1, box_outer = 1;
  int number_bytes = 2;
};
inline CUtensorMap map_of(array_3d const& a) {
  auto const size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  cuuint64_t const sizes[3] = {size(a.inner), size(a.middle), size(a.outer)};
  cuuint64_t const bytes = size(a.number_bytes);
  cuuint64_t const strides[2] = {size(a.middle_stride) * bytes, size(a.outer_stride) * bytes};
  cuuint32_t const box[3] = {128u / static_cast<cuuint32_t>(a.number_bytes),
                             static_cast<cuuint32_t>(a.box_middle),
                             static_cast<cuuint32_t>(a.box_outer)};
  cuuint32_t const steps[3] = {1, 1, 1};
  auto const encoder = map_encoder();
  if (!encoder) throw cuda_error("the driver has no cuTensorMapEncodeTiled");
  CUtensorMap map;
  CUresult const result =
      encoder(&map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
              3, const_cast<void*>(a.data), sizes, strides, box, steps,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw cuda_error("a tensor map of (%lld, %lld, %lld) numbers at %p: error %d of the driver",
                     static_cast<long long>(a.outer), static_cast<long long>(a.middle),
                     static_cast<long long>(a.inner), a.data, static_cast<int>(result));
  return map;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// The kernel's dynamic shared memory, on a border that panels may stand on.
__device__ inline unsigned char* panels() {
  extern __shared__ __align__(1024) unsigned char finegrain_panels[];
  return finegrain_panels;
}

// --- Barriers: 8 bytes of shared memory, by their address there. A phase ends when the count of
// arrivals is complete and all bytes that were expected have come. ---

__device__ inline void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// After barrier_init, by the thread that did it, before the CTA's or the cluster's barrier.
__device__ inline void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// At the same barrier of CTA `rank` of the cluster.
__device__ inline void arrive_at(std::uint32_t barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
__device__ inline void arrive_and_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
/// Until the phase of this parity is over: 0 for the first, 1 for the second, 0 again. The phase
/// before the first counts as over.
__device__ inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// --- Copies by the engine: one thread asks. Tiles at (outer, middle, inner) of the map. ---

__device__ inline void load(std::uint32_t to, CUtensorMap const* map, int outer, int middle,
                            int inner, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(inner), "r"(middle), "r"(outer), "r"(barrier)
      : "memory");
}
/// To the same place, and to the same barrier, in each CTA of the cluster whose bit is set.
__device__ inline void load_for(std::uint16_t ctas, std::uint32_t to, CUtensorMap const* map,
                                int outer, int middle, int inner, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(inner), "r"(middle), "r"(outer), "r"(barrier), "h"(ctas)
      : "memory");
}
/// Bytes side by side, a multiple of 16.
__device__ inline void load_bytes(std::uint32_t to, void const* from, int bytes,
                                  std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
/// The tile is brought to L2.
__device__ inline void prefetch(CUtensorMap const* map, int outer, int middle, int inner) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(map),
               "r"(inner), "r"(middle), "r"(outer)
               : "memory");
}
/// What threads wrote to shared memory is seen by the engine, and by wgmma: after they wrote, or by
/// the reader after a barrier that they arrived at.
__device__ inline void fence_panels() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void store(CUtensorMap const* map, int outer, int middle, int inner,
                             std::uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map),
      "r"(inner), "r"(middle), "r"(outer), "r"(from)
      : "memory");
}
__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until shared memory of all but the last Pending groups of stores was read.
template <int Pending>
__device__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}

// --- Copies by threads: 16 bytes each. ---

/// Zeros where `there` is false; `from` is not read then.
__device__ inline void gather_16(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
/// One arrival, when this thread's gathers until here are complete. Readers of another proxy still
/// need fence_panels.
__device__ inline void gather_arrive(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// --- Clusters. ---

__device__ inline int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}

/// Tells both CTAs of the cluster that this warp has read a stage, by its barrier in each.
__device__ inline void release(std::uint32_t empty) {
  if (int const lane = threadIdx.x % 32; lane < 2) arrive_at(empty, lane);
}

// --- From registers. ---

/// Of the 128 threads of warpgroup w, 0 or 1.
__device__ inline void warpgroup_sync(int w) {
  if (w == 0)
    asm volatile("bar.sync 1, 128;" ::: "memory");
  else
    asm volatile("bar.sync 2, 128;" ::: "memory");
}

/// Four 8 x 8 matrices of 16-bit numbers to shared memory: lane l gives the address of row l % 8 of
/// matrix l / 8, and holds numbers l % 4 * 2 + {0, 1} of row l / 4 of each.
__device__ inline void store_matrices(std::uint32_t row, std::uint32_t m0, std::uint32_t m1,
                                      std::uint32_t m2, std::uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}
/// The same, each matrix transposed on its way: lane l holds numbers of column l / 4.
__device__ inline void store_matrices_transposed(std::uint32_t row, std::uint32_t m0,
                                                 std::uint32_t m1, std::uint32_t m2,
                                                 std::uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(m0), "r"(m1), "r"(m2), "r"(m3)
               : "memory");
}
#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
