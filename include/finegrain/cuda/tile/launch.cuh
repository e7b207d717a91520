// A kernel of blocks that use much shared memory, started.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../memory.cuh"
#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Starts a kernel on a grid of so many blocks of a shape; none: does nothing.
template <class S, class T>
void launch_blocks(void (*kernel)(expert_products<T>), std::int64_t blocks,
                   expert_products<T> const& p, CUstream_st* stream, char const* name) {
  if (blocks == 0) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes), name);
  kernel<<<static_cast<unsigned>(blocks), S::threads, S::bytes, stream>>>(p);
  check_launch(name);
}
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
