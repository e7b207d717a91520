// The device's memory: arrays, and which of their bytes were written.
// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <malloc.h>

#include <cstring>
#include <limits>

#include "checks.hpp"

namespace emulator {
namespace {

constexpr u64 room = 4096;  // around each array
// Made when first asked for, and never destroyed: programs' own static objects have memory, too.
std::map<u64, array>& arrays() {
  static auto& all = []() -> auto& {
    // What is freed stays with this process: new pages of the system's take longer than their use.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
    return *new std::map<u64, array>;
  }
  ();
  return all;
}
array* last = nullptr;  // most accesses are to the array of the one before

}  // namespace

void* make_array(u64 bytes, bool host) {
  array a;
  a.store.resize(bytes + 2 * room + 256, 0xff);
  a.base = (reinterpret_cast<u64>(a.store.data()) + room + 255) / 256 * 256;
  a.size = bytes;
  a.host = host;
  a.written.resize(bytes, host);
  auto* const base = reinterpret_cast<void*>(a.base);
  arrays()[a.base] = std::move(a);
  return base;
}
void drop_array(void* base) {
  if (!base) return;
  last = nullptr;
  if (arrays().erase(reinterpret_cast<u64>(base)) == 0) record("memory is freed that is none");
}
array* find_array(u64 address) {
  if (last && address - last->base < last->size) return last;
  auto at = arrays().upper_bound(address);
  if (at == arrays().begin()) return nullptr;
  --at;
  if (address - at->first >= at->second.size) return nullptr;
  return last = &at->second;
}
void mark(void* p, u64 bytes, bool written) {
  auto const address = reinterpret_cast<u64>(p);
  if (array* const a = find_array(address))
    std::memset(a->written.data() + (address - a->base), written, bytes);
}
std::string near(u64 address) {
  auto at = arrays().upper_bound(address);
  if (at == arrays().begin()) return "before all arrays";
  --at;
  return "byte " + std::to_string(address - at->first) + " of an array of " +
         std::to_string(at->second.size);
}

}  // namespace emulator
