// architectures: which GPUs a .cu file is compiled for, and so which of two kernels of a product have
// code in it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.cuh"
#include "tile/number.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Whether nvcc makes code for this compute capability, times 100.
constexpr bool compiled_for([[maybe_unused]] int capability) {
#if defined(__CUDA_ARCH_LIST__)
  int const all[] = {__CUDA_ARCH_LIST__};
  for (int const one : all)
    if (one == capability) return true;
  return false;
#else
  return true;
#endif
}

/// Whether Hopper's kernels of products may have code: else nothing calls them.
template <class T>
inline constexpr bool has_hopper = in_pairs<T>&& compiled_for(900);

// Hopper's kernels are empty but in code for 9.0a. There, those of any GPU whose every launch they
// take are: unless the .cu file defines FINEGRAIN_CUDA_PORTABLE before its first header, for
// executors that keep to instructions::portable.
#if defined(FINEGRAIN_CUDA_PORTABLE)
template <class T>
inline constexpr bool portable_is_left_out = false;
#else
template <class T>
inline constexpr bool portable_is_left_out = has_hopper<T>;
#endif

/// Whether this is the pass of the compiler that leaves them out.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <class T>
inline constexpr bool replaced_here = portable_is_left_out<T>;
#else
template <class T>
inline constexpr bool replaced_here = false;
#endif

/// Whether the kernel, which takes more than 64 registers, has code for the current device, or is
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
  known = found(cudaFuncGetAttributes(&compiled, Kernel)) && compiled.numRegs > 64;
  asked = device;
  return known;
}

/// Before a launch of a kernel that may be left out.
template <auto Kernel, class T>
void check_code([[maybe_unused]] char const* name) {
  if constexpr (portable_is_left_out<T>)
    if (!has_code<Kernel>())
      throw invalid_argument(
          "%s: this program has Hopper's kernels alone for this GPU; its .cu file holds those of "
          "any GPU, too, where it defines FINEGRAIN_CUDA_PORTABLE",
          name);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
