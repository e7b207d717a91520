// overlap: launches that begin while the one ahead of them in the stream still runs, from compute
// capability 9.0 on (programmatic dependent launch).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "memory.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

// A kernel started by launch_overlapping calls wait_for_launch_ahead in all blocks, before it
// writes, and before it reads what the launch ahead writes. As every kernel lets the next one begin
// only behind its own wait, all launches but the one ahead have ended when a kernel begins: what
// they wrote may be read at once, past L1. Kernels launched otherwise have ended too.

/// Waits until the launch ahead has ended, and lets the next one begin.
__device__ inline void wait_for_launch_ahead() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/// Whether the code that the current device has of a kernel waits: that for 8.0 does not, which newer
/// GPUs run where a program has no other. Answers are kept for a thread's last kernels.
FINEGRAIN_ONE_COPY inline bool has_waiting_code(void const* kernel, char const* name) {
  struct answer {
    void const* kernel = nullptr;
    int device = -1;
    bool waits = false;
  };
  thread_local answer answers[64];
  int device = 0;
  check(cudaGetDevice(&device), "asking for the device");
  answer& known = answers[reinterpret_cast<std::uintptr_t>(kernel) / 16 % 64];
  if (known.kernel != kernel || known.device != device) {
    cudaFuncAttributes code{};
    check(cudaFuncGetAttributes(&code, kernel), name);
    known = {kernel, device, code.ptxVersion >= 90};
  }
  return known.waits;
}

/// Starts a kernel so, on arguments at these addresses.
FINEGRAIN_ONE_COPY inline void launch_overlapping(void const* kernel, dim3 grid, int threads,
                                                  std::int64_t bytes, CUstream_st* stream,
                                                  char const* name, void** arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim.x = static_cast<unsigned>(threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = has_waiting_code(kernel, name) ? 1 : 0;
  check(cudaLaunchKernelExC(&config, kernel, arguments), name);
  check_launch(name);
}
template <class... P>
void launch_overlapping(void (*kernel)(P...), dim3 grid, int threads, std::int64_t bytes,
                        CUstream_st* stream, char const* name,
                        std::type_identity_t<P> const&... arguments) {
  void const* addresses[] = {&arguments...};
  launch_overlapping(reinterpret_cast<void const*>(kernel), grid, threads, bytes, stream, name,
                     const_cast<void**>(addresses));
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
