// cp.async: copies from global to shared memory that a thread starts and does not wait for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The address of shared memory, as the instructions take it.
__device__ inline std::uint32_t shared_address(void const* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// Copies 16 bytes, past L1; or writes zeros where there are none. Both on 16-byte borders.
__device__ inline void load_async(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
}
__device__ inline void load_async(std::uint32_t to, void const* from) {
  load_async(to, from, from != nullptr);
}

/// A V of shared memory, on its border.
template <class V>
__device__ V load_shared(std::uint32_t address) {
  return *static_cast<V const*>(__cvta_shared_to_generic(address));
}

/// Ends a group of this thread's copies: empty groups count too.
__device__ inline void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most N of this thread's groups are under way.
template <int N>
__device__ void wait_async() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Asks for the 128 bytes at an address to be brought to L2.
__device__ inline void prefetch(void const* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(at)));
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
