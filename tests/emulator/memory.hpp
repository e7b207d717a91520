// The device's memory: arrays, and which of their bytes were written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "checks.hpp"

namespace emulator {

/// When which warp did something in global memory: who is 32 times its cluster's number, and its
/// clock in that.
struct touch {
  u32 when, who;
};
/// Of two bytes: who wrote last, by an atomic operation or not, and who read since.
struct touches {
  touch wrote;
  std::array<touch, 2> read;
  bool atomic;
};

struct array {
  u64 base = 0, size = 0;
  bool host = false;        // pinned: whole from the beginning
  std::vector<u8> written;  // for each byte
  std::vector<u8> store;    // with room around it that belongs to nobody
  static constexpr u64 page = 2048;
  std::vector<std::unique_ptr<std::array<touches, page>>> pages;  // those that kernels touched
  touches& touched(u64 n) {
    if (pages.empty()) pages.resize(size / 2 / page + 1);
    auto& one = pages[n / page];
    if (!one) one = std::make_unique<std::array<touches, page>>();
    return (*one)[n % page];
  }
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

/// What orders accesses of a launch's blocks, and of one launch and the next.
void begin_launch();
void fence(warp& w);
/// Looks whether an access is ordered with those of others.
void touch_all(warp& w, instruction const& i, int lane, array& a, u64 address, u32 bytes,
               access how);
/// Of two who write one place in no order, the second must leave what the first did: after each
/// instruction during which there were such.
inline bool in_contest = false;
void settle_contests(warp& w);

}  // namespace emulator
