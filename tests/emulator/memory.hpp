// The device's memory: arrays, and which of their bytes were written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "machine.hpp"

namespace emulator {

struct array {
  u64 base = 0, size = 0;
  bool host = false;        // pinned: whole from the beginning
  std::vector<u8> written;  // for each byte
  std::vector<u8> store;    // with room around it that belongs to nobody
  u8* shadow_of(u64 address) { return written.data() + (address - base); }
  bool holds(u64 address, u64 bytes) const {
    return address >= base && address - base <= size && bytes <= size - (address - base);
  }
};

void* make_array(u64 bytes, bool host);
void drop_array(void* base);
/// The array in which there is this address, or nothing.
array* find_array(u64 address);
/// Has what is at p, on device or host, count as written or not.
void mark(void* p, u64 bytes, bool written);
/// The distance of the nearest array before it, for a sentence.
std::string near(u64 address);

}  // namespace emulator
