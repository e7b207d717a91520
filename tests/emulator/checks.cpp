// Faults: accesses beyond arrays, of what nobody wrote, and without a barrier between them.
// SPDX-License-Identifier: Apache-2.0
#include "checks.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "memory.hpp"

namespace emulator {
namespace {

std::vector<std::string> faults;

void exit_with_faults() {
  if (faults.empty()) return;
  std::fprintf(stderr, "emulator: %zu faults\n", faults.size());
  std::fflush(nullptr);
  std::_Exit(1);
}

std::string described(module const& m, place const& at) {
  auto const one = [&](u32 file, u32 line) {
    auto const found = m.files.find(file);
    return (found == m.files.end() ? "?" : std::string(found->second)) + ":" + std::to_string(line);
  };
  if (!at.file) return "an unknown place";
  return one(at.file, at.line) +
         (at.outer_file ? ", called at " + one(at.outer_file, at.outer_line) : "");
}

std::string readable(std::string_view name) {
  std::string const mangled(name);
  std::unique_ptr<char, void (*)(void*)> const made(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr), std::free);
  return made ? made.get() : mangled;
}
}  // namespace

char const* word(access how) {
  return how == access::read ? "reads" : how == access::write ? "writes" : "updates";
}

namespace {

// Whether all bytes are 1; or makes them so.
bool written(u8* shadow, u32 bytes, access how) {
  if (how == access::write) {
    std::memset(shadow, 1, bytes);
    return true;
  }
  constexpr u64 ones = 0x0101010101010101;
  u64 wrong = 0;
  u32 n = 0;
  for (u64 x; n + 8 <= bytes; n += 8) {
    std::memcpy(&x, shadow + n, 8);
    wrong |= x ^ ones;
  }
  for (; n < bytes; ++n) wrong |= shadow[n] ^ 1u;
  return wrong == 0;
}
u8* with_shadow(warp const& w, instruction const& i, int lane, u8* data, u8* shadow, u32 bytes,
                access how) {
  if (!written(shadow, bytes, how)) fail(w, i, "reads what nobody wrote", lane);
  return data;
}
u8* reach_local(warp& w, instruction const& i, int lane, u64 at, u32 bytes, access how) {
  u32 const size = w.of->local_bytes;
  if (at + bytes > size) fail(w, i, std::string(word(how)) + " beyond a thread's own array", lane);
  u64 const offset = static_cast<u64>(lane) * size + at;
  return with_shadow(w, i, lane, w.local.data() + offset, w.local_written.data() + offset, bytes,
                     how);
}

}  // namespace

void record(std::string const& what) {
  static int const registered = std::atexit(exit_with_faults);
  static_cast<void>(registered);
  std::fprintf(stderr, "emulator: %s\n", what.c_str());
  faults.push_back(what);
}
std::vector<std::string> take_faults() { return std::exchange(faults, {}); }

void fail(warp const& w, instruction const& i, std::string const& what, int lane) {
  auto const& source = w.of->sources[static_cast<std::size_t>(&i - w.of->code.data())];
  dimensions const at = w.in->at;
  std::string text = readable(w.of->name) + ": " + what + ": block " + std::to_string(at.x) + " " +
                     std::to_string(at.y) + " " + std::to_string(at.z) + ", warp " +
                     std::to_string(w.index);
  if (lane >= 0) text += ", lane " + std::to_string(lane);
  text += ", `" + std::string(source.text) + "`, " + described(*w.of->in, source.where);
  throw fault(text);
}
void unknown(std::string const& what) { throw fault("the emulator does not know " + what); }

namespace {

// The same as reach does, of bytes that are aligned.
u8* reach_aligned(warp& w, instruction const& i, int lane, space where, u64 address, u32 bytes,
                  access how) {
  if (where == space::shared)
    return reach_shared(w, *w.in, i, lane, address & 0xffffffff, bytes, how);
  if (where == space::local) return reach_local(w, i, lane, address & 0xffffffff, bytes, how);
  if (array* const a = find_array(address); a && a->holds(address, bytes)) {
    touch_all(w, i, lane, *a, address, bytes, how);
    return with_shadow(w, i, lane, reinterpret_cast<u8*>(address), a->shadow_of(address), bytes,
                       how);
  }
  if (where == space::generic) {
    block& b = *w.in;
    if (auto const at = address - reinterpret_cast<u64>(b.shared); at < b.shared_bytes)
      return reach_shared(w, b, i, lane, at, bytes, how);
    if (auto const at = address - reinterpret_cast<u64>(w.local_of(lane)); at < w.of->local_bytes)
      return reach_local(w, i, lane, at, bytes, how);
    if (auto const at = address - reinterpret_cast<u64>(b.parameters);
        how == access::read && at + bytes <= w.of->parameter_bytes)
      return reinterpret_cast<u8*>(address);
  }
  fail(w, i, std::string(word(how)) + " outside of memory, at " + near(address), lane);
}

}  // namespace

u8* reach(warp& w, instruction const& i, int lane, space where, u64 address, u32 bytes,
          access how) {
  if (address & (bytes - 1))
    fail(w, i, std::string(word(how)) + " " + std::to_string(bytes) + " bytes that are not aligned",
         lane);
  return reach_aligned(w, i, lane, where, address, bytes, how);
}
places reach_all(warp& w, instruction const& i, u32 mask, space where, addresses const& of,
                 u32 bytes, access how) {
  // Arrays of threads are apart, and each atomic location tells what is known there.
  bool const apart = where == space::local || i.order != ordering::plain;
  runs const all(mask, apart ? 0 : bytes, of);
  if (where == space::shared) return reach_shared_all(w, i, mask, of, bytes, how, all);
  places to{};
  for (u32 l = 0, end = 0; l < lanes; l = end) {
    end = all.end(l);
    if (!(mask >> l & 1)) continue;
    u8* first = nullptr;
    if (end > l + 1 && !(of[l] & (bytes - 1))) try {
        u32 const size = all.step(l) ? (end - l) * bytes : bytes;
        first = reach_aligned(w, i, static_cast<int>(l), where, of[l], size, how);
      } catch (fault const&) {  // whose is it?
      }
    for (u32 n = l; n < end; ++n)
      to[n] = first ? first + (n - l) * all.step(l)
                    : reach(w, i, static_cast<int>(n), where, of[n], bytes, how);
  }
  return to;
}

block& block_at(warp& w, instruction const& i, int lane, u64 address) {
  u64 const rank = address >> 24;
  if (rank == 0) return *w.in;
  if (rank > w.in->of->blocks.size())
    fail(w, i, "has an address in a block that its cluster has not", lane);
  return *w.in->of->blocks[rank - 1];
}
void tell(times& all, warp const& w) {
  for (std::size_t x = 0; x < all.size(); ++x)
    all[x] = std::max(all[x], x == w.clock ? clock_now : w.known[x]);
}
void learn(warp& w, times const& all) {
  for (std::size_t x = 0; x < w.in->clocks; ++x) w.known[x] = std::max(w.known[x], all[x]);
}
void open(barrier& b) {
  times all = b.known;
  for (warp const* w : b.waiting) tell(all, *w);
  for (warp* w : b.waiting) {
    learn(*w, all);
    if (u32 const at = std::exchange(w->total_at, 0)) std::fill_n(w->reg<u32>(at), lanes, b.total);
    w->is = warp::state::ready;
  }
  ++clock_now;
  b = {};
}

}  // namespace emulator
