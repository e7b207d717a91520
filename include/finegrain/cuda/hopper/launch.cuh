// Kernels for compute capability 9.0 alone, on the host: whether one can run, and launching it on
// all multiprocessors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/tma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

/// Whether the kernel can run on the current device, and was compiled for it. Each product asks; the
/// driver is asked once for a device and thread.
template <auto Kernel>
bool can_run() {
  thread_local int asked = -1;
  thread_local bool known = false;
  int device = 0, major = 0, minor = 0;
  auto const found = [](cudaError_t result) {
    if (result != cudaSuccess) static_cast<void>(cudaGetLastError());
    return result == cudaSuccess;
  };
  if (!found(cudaGetDevice(&device))) return false;
  if (device == asked) return known;
  cudaFuncAttributes compiled{};
  // Compiled for another architecture, the kernel is empty.
  known = found(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) &&
          found(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device)) &&
          major == 9 && minor == 0 && found(cudaFuncGetAttributes(&compiled, Kernel)) &&
          compiled.numRegs > 64 && map_encoder() != nullptr;
  asked = device;
  return known;
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
