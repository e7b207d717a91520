// tile_ring: a ring of operands in shared memory, as a tile lays it out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/tma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Where in the ring, and in which of its rounds. The barriers of all full stages stand first, then
/// those of the empty ones.
template <class Tile>
struct tile_ring {
  std::uint32_t base, stage = 0, parity = 0;

  __device__ void next() {
    if (++stage == Tile::stages) stage = 0, parity ^= 1;
  }
  __device__ std::uint32_t operands() const { return base + stage * Tile::stage_bytes; }
  __device__ std::uint32_t full() const { return base + Tile::barriers_at + stage * 8; }
  __device__ std::uint32_t empty() const { return full() + Tile::stages * 8; }
};

#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
