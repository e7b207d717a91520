// Faults, and the accesses to memory that they are found in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "machine.hpp"

namespace emulator {

/// What ends a kernel.
struct fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Prints a fault and keeps it. The program exits with an error unless it takes it back.
void record(std::string const& what);
/// The faults until now, which then count no more: for tests that planted them.
std::vector<std::string> take_faults();

/// Ends the kernel with a sentence: what a lane did, in which instruction, and where that is.
[[noreturn]] void fail(warp const& w, instruction const& i, std::string const& what, int lane = -1);
/// Ends what was asked for with a sentence on something that the emulator has not.
[[noreturn]] void unknown(std::string const& what);

enum class access { read, write, update };  // update: an atomic one

/// Where the bytes, 1 to 16, at an address of a lane are, after all checks. A write makes them
/// written.
u8* reach(warp& w, instruction const& i, int lane, space where, u64 address, u32 bytes, access how);

/// The same of shared memory, which may be another block's of the cluster.
u8* reach_shared(warp& w, block& b, instruction const& i, int lane, u64 at, u32 bytes, access how);
/// The address that is an instruction's operand 8.
u64 address_of(warp& w, instruction const& i, int lane);

/// Has what is in shared memory be unwritten again.
void forget(block& b, u32 at, u32 bytes);
/// Adds to what is known through a barrier what w did and knows until now; and lets w know all of it.
void tell(std::array<u32, 32>& all, warp const& w);
void learn(warp& w, std::array<u32, 32> const& all);
/// Lets everyone go who waits at a barrier, knowing what the others did before.
void open(barrier& b);

}  // namespace emulator
