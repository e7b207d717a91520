// architectures: of two kernels for a product, which has code for a GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.cuh"
#include "tile/number.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

// Hopper's kernels are empty but in code for 9.0a. There, kernels of any GPU are empty whose every
// launch Hopper's take; unless the .cu file defines FINEGRAIN_CUDA_PORTABLE before its first header,
// for executors that keep to instructions::portable.

/// Whether this is the pass of the compiler that leaves such kernels empty.
template <class T>
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(FINEGRAIN_CUDA_PORTABLE)
inline constexpr bool replaced_here = in_pairs<T>;
#else
inline constexpr bool replaced_here = false;
#endif

/// Whether the current device is of compute capability 9.0.
inline bool on_hopper() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking");
  return major == 9 && minor == 0;
}

/// Whether the kernel, which takes more than 32 registers, has code for the current device, or is
/// empty there. Each product asks; the driver is asked once for a device and thread.
template <auto Kernel>
bool has_code() {
  thread_local int asked = -1;
  thread_local bool known = false;
  int device = 0;
  auto const found = [](cudaError_t result) {
    if (result != cudaSuccess) static_cast<void>(cudaGetLastError());
    return result == cudaSuccess;
  };
  if (!found(cudaGetDevice(&device))) return false;
  if (device == asked) return known;
  cudaFuncAttributes compiled{};
  known = found(cudaFuncGetAttributes(&compiled, Kernel)) && compiled.numRegs > 32;
  asked = device;
  return known;
}

/// Before a launch of a kernel that a .cu file may leave empty.
template <auto Kernel>
void check_code(char const* name) {
  if (!has_code<Kernel>())
    throw invalid_argument(
        "%s: for this GPU the program has Hopper's kernels alone; its .cu file holds those of any "
        "GPU, too, where it defines FINEGRAIN_CUDA_PORTABLE",
        name);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
