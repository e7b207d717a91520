// Kernels for compute capability 9.0 alone, on the host: whether one can run, and launching it on
// all multiprocessors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../architectures.cuh"
#include "../tile/tma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

/// Whether the current device is of compute capability 9.0, and has code of this kernel.
template <auto Kernel>
bool can_run() {
  return has_code<Kernel>() && on_hopper() && map_encoder() != nullptr;
}

/// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "asking for the number of multiprocessors");
  return count;
}

/// Starts a kernel of `Shape` on clusters of two blocks, one a multiprocessor: `most` clusters, or
/// fewer.
template <class Shape, class Arguments>
void launch_clusters(void (*kernel)(Arguments), Arguments const& arguments, std::int64_t most,
                     CUstream_st* stream, char const* name) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             Shape::shared_bytes),
        name);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {2, 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim =
      dim3(2 * static_cast<unsigned>(at_most<std::int64_t>(most, multiprocessors() / 2)));
  launch.blockDim = dim3(Shape::threads);
  launch.dynamicSmemBytes = Shape::shared_bytes;
  launch.stream = stream;
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  check(cudaLaunchKernelEx(&launch, kernel, arguments), name);
}

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
