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
char const* word(access how) {
  return how == access::read ? "reads" : how == access::write ? "writes" : "updates";
}

[[noreturn]] void race(warp const& w, instruction const& i, int lane, access how, char const* did,
                       u64 other) {
  std::size_t const warps = w.in->warps.size();
  bool const alone = w.in->clocks == warps;
  fail(w, i,
       std::string(word(how)) + " shared memory that warp " + std::to_string(other % warps) +
           (alone ? "" : " of block " + std::to_string(other / warps) + " of its cluster") + " " +
           did + ", without a barrier between them",
       lane);
}
// Whether what is later than w is sure of is a race, or its own doing.
void look_closer(warp const& w, block const& b, instruction const& i, int lane, u64 first, u64 end,
                 access how) {
  history const& h = b.words;
  for (u64 at = first; at < end; ++at) {
    if (h.wrote[at] > w.known[h.writer[at]]) race(w, i, lane, how, "wrote", h.writer[at]);
    for (std::size_t other = 0; how == access::write && other < b.clocks; ++other)
      if (h.reads[other * h.wrote.size() + at] > w.known[other])
        race(w, i, lane, how, "read", other);
  }
}
// An update may follow another, and needs to know no more than that somebody wrote before.
template <u32 Count>
void check_words(warp& w, block& b, instruction const& i, int lane, u64 first, access how) {
  history& h = b.words;
  std::size_t const me = w.clock;
  u32 *const wrote = &h.wrote[first], *const read = &h.read[first];
  u32 latest = 0, earliest = ~0u;
  for (u32 n = 0; n < Count; ++n) {
    latest = std::max(latest, how == access::write ? std::max(wrote[n], read[n]) : wrote[n]);
    earliest = std::min(earliest, wrote[n]);
  }
  if (how != access::write && earliest < b.began)
    fail(w, i, "reads shared memory that nobody wrote", lane);
  if (how == access::update) return;
  if (latest > w.sure) look_closer(w, b, i, lane, first, first + Count, how);
  if (how == access::read) {
    std::fill_n(read, Count, clock_now);
    std::fill_n(&h.reads[me * h.wrote.size() + first], Count, clock_now);
  } else {
    std::fill_n(wrote, Count, clock_now);
    std::fill_n(&h.writer[first], Count, static_cast<u8>(me));
  }
}
}  // namespace

u8* reach_shared(warp& w, block& b, instruction const& i, int lane, u64 at, u32 bytes, access how) {
  if (at + bytes > b.shared_bytes)
    fail(w, i,
         std::string(word(how)) + " byte " + std::to_string(at) + " of " +
             std::to_string(b.shared_bytes) + " in shared memory",
         lane);
  switch (bytes) {
    case 16: check_words<8>(w, b, i, lane, at / 2, how); break;
    case 8: check_words<4>(w, b, i, lane, at / 2, how); break;
    case 4: check_words<2>(w, b, i, lane, at / 2, how); break;
    default: check_words<1>(w, b, i, lane, at / 2, how);
  }
  return b.shared + at;
}

namespace {

// Whether all of T's bytes are 1; or makes them so.
template <class T>
bool written_as(u8* written, bool writes) {
  constexpr T ones = static_cast<T>(0x0101010101010101);
  T now = ones;
  if (writes) std::memcpy(written, &ones, sizeof now);
  std::memcpy(&now, written, sizeof now);
  return now == ones;
}
u8* with_shadow(warp const& w, instruction const& i, int lane, u8* data, u8* written, u32 bytes,
                access how) {
  bool const writes = how == access::write;
  bool const whole = bytes == 16
                         ? written_as<u64>(written, writes) && written_as<u64>(written + 8, writes)
                     : bytes == 8 ? written_as<u64>(written, writes)
                     : bytes == 4 ? written_as<u32>(written, writes)
                     : bytes == 2 ? written_as<u16>(written, writes)
                                  : written_as<u8>(written, writes);
  if (!whole) fail(w, i, "reads what nobody wrote", lane);
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

u8* reach(warp& w, instruction const& i, int lane, space where, u64 address, u32 bytes,
          access how) {
  if (address & (bytes - 1))
    fail(w, i, std::string(word(how)) + " " + std::to_string(bytes) + " bytes that are not aligned",
         lane);
  if (where == space::shared)
    return reach_shared(w, *w.in, i, lane, address & 0xffffffff, bytes, how);
  if (where == space::local) return reach_local(w, i, lane, address & 0xffffffff, bytes, how);
  if (array* const a = find_array(address); a && a->holds(address, bytes))
    return with_shadow(w, i, lane, reinterpret_cast<u8*>(address),
                       a->written.data() + (address - a->base), bytes, how);
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

block& block_at(warp& w, instruction const& i, int lane, u64 address) {
  u64 const rank = address >> 24;
  if (rank == 0) return *w.in;
  if (rank > w.in->of->blocks.size())
    fail(w, i, "has an address in a block that its cluster has not", lane);
  return *w.in->of->blocks[rank - 1];
}
u64 address_of(warp& w, instruction const& i, int lane) {
  return (i.wide ? w.reg<u64>(i.at[8])[lane] : w.reg<u32>(i.at[8])[lane]) +
         static_cast<u64>(i.number);
}
void forget(block& b, u32 at, u32 bytes) {
  std::fill_n(&b.words.wrote[at / 2], bytes / 2, 0);
  std::memset(b.shared + at, 0xff, bytes);
}
void tell(std::array<u32, 32>& all, warp const& w) {
  for (std::size_t x = 0; x < all.size(); ++x)
    all[x] = std::max(all[x], x == w.clock ? clock_now : w.known[x]);
}
void learn(warp& w, std::array<u32, 32> const& all) {
  w.sure = ~0u;  // of itself
  for (std::size_t x = 0; x < w.in->clocks; ++x) {
    w.known[x] = std::max(w.known[x], all[x]);
    w.sure = std::min(w.sure, w.known[x]);
  }
}
void open(barrier& b) {
  std::array<u32, 32> all = b.known;
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
