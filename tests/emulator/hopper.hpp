// What instructions of compute capability 9.0 share: shared memory of a cluster's blocks, and what is
// complete when somebody waits for it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "ptx.hpp"

namespace emulator {

/// An address in shared memory has the place in a block, and above it 1 + the block's rank in its
/// cluster, or 0 of one's own.
constexpr u64 offset_mask = 0xffffff;
constexpr u32 in_block(u32 address, u32 rank) {
  return (address & static_cast<u32>(offset_mask)) | (rank + 1) << 24;
}
block& block_at(warp& w, instruction const& i, int lane, u64 address);

/// The mbarrier at an address.
phase_barrier& phases_of(warp& w, instruction const& i, int lane, u64 at);
/// Bytes that it waited for have come; who learns of its phase knows what this clock did till `when`.
void come(phase_barrier& b, std::size_t clock, u32 when, u32 bytes);
/// A lane's copies of groups up to this one (cp.async).
void finish_copies(warp& w, instruction const& i, int lane, int last);

// Instructions that others' names begin with.
void decode_bulk(statement& s);               // cp.async.bulk
void decode_arrival_of_copies(statement& s);  // cp.async.mbarrier
void decode_cluster_barrier(statement& s);    // barrier.cluster

/// Bytes of rows of 128 in shared memory, whose chunks of 16 are permuted by their row.
constexpr u64 swizzled(u64 at) { return at ^ (at >> 7 & 7) << 4; }

/// A map of an array as the driver makes it: see array_3d in tile/tma.cuh. Inner dimensions first.
struct tensor_map {
  u64 data, sizes[3], strides[2];  // strides in bytes
  u32 box[3], number_bytes, marked;
};
constexpr u32 is_tensor_map = 0x7e45012d;

}  // namespace emulator
