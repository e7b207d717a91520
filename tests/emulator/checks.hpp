// Faults, and the accesses to memory that they are found in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
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
char const* word(access how);

/// Where the bytes, 1 to 16, at an address of a lane are, after all checks. A write makes them
/// written.
u8* reach(warp& w, instruction const& i, int lane, space where, u64 address, u32 bytes, access how);

/// An address, or a place in this process, of each lane.
using addresses = std::array<u64, lanes>;
using places = std::array<u8*, lanes>;
/// The same for all lanes of a mask.
places reach_all(warp& w, instruction const& i, u32 mask, space where, addresses const& of,
                 u32 bytes, access how);

/// Lanes one behind the other whose bytes follow one another, or are the same: they are looked at
/// at once.
class runs {
 public:
  runs(u32 mask, u32 bytes, addresses const& of) : bytes_(bytes) {
    for (u32 l = 1; l < lanes; ++l) {
      follows_ |= u32{of[l] - of[l - 1] == bytes} << l;
      same_ |= u32{of[l] == of[l - 1]} << l;
    }
    mask &= bytes ? mask << 1 : 0;
    follows_ &= mask;
    same_ &= mask;
  }
  /// Behind the last of the run that lane l begins.
  u32 end(u32 l) const {
    auto const more = [&](u32 which) {
      return static_cast<u32>(std::countr_one(static_cast<u32>(u64{which} >> (l + 1))));
    };
    return l + 1 + std::max(more(follows_), more(same_));
  }
  u64 step(u32 l) const { return u64{follows_} >> (l + 1) & 1 ? bytes_ : 0; }

 private:
  u32 bytes_, follows_ = 0, same_ = 0;
};

/// The same of any number of bytes of shared memory, which may be another block's of the cluster.
u8* reach_shared(warp& w, block& b, instruction const& i, int lane, u64 at, u32 bytes, access how);
places reach_shared_all(warp& w, instruction const& i, u32 mask, addresses const& of, u32 bytes,
                        access how, runs const& all);
/// The addresses that are an instruction's operand 8, or another.
inline addresses addresses_of(warp& w, instruction const& i, std::size_t operand = 8) {
  addresses all;
  u32 const at = i.at[operand];
  auto const number = static_cast<u64>(i.number);
  for (u32 l = 0; l < lanes; ++l) all[l] = i.wide ? w.reg<u64>(at)[l] : w.reg<u32>(at)[l];
  for (u64& one : all) one += number;
  return all;
}
inline u64 address_of(warp& w, instruction const& i, int lane) {
  return (i.wide ? w.reg<u64>(i.at[8])[lane] : w.reg<u32>(i.at[8])[lane]) +
         static_cast<u64>(i.number);
}

/// Has what was just written in shared memory be unwritten again: it is still on its way.
void forget(block& b, u32 at, u32 bytes);
/// Adds to what is known through a barrier what w did and knows until now; and lets w know all of it.
void tell(times& all, warp const& w);
void learn(warp& w, times const& all);
/// Lets everyone go who waits at a barrier, knowing what the others did before.
void open(barrier& b);

}  // namespace emulator
