// Faults in global memory: accesses of two blocks, two warps or two launches that nothing orders.
// It finds no race that is none, and not all that are: what one warp sees behind a fence its whole
// cluster counts as knowing, a wait for the launch ahead is one for those before it too, and
// readers are remembered two at a time, atomic ones not at all.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "memory.hpp"
#include "runtime.hpp"

namespace emulator {
namespace {

// When the launch began that runs, and the one that may not have ended yet.
u32 began = 0, ahead = 0;
// What who looks at an atomic location may come to know, of those that do so behind a fence.
std::unordered_map<u64, knowledge> locations;

void join(times& all, times const& more) {
  for (std::size_t x = 0; x < all.size(); ++x) all[x] = std::max(all[x], more[x]);
}
void join(knowledge& all, knowledge const& more) {
  for (auto const& [number, till] : more) join(all[number], till);
}

// Atomic operations carry what was known at a fence before them to a fence behind them.
void exchange(warp& w, u64 address) {
  auto const found = locations.find(address);
  if (found != locations.end()) join(w.seen, found->second);
  if (!w.fenced) return;
  knowledge& here = locations[address];
  join(here, w.in->of->others);
  join(here[w.in->of->number], w.at_fence);
}

bool knows(warp const& w, touch const& other) {
  cluster const& mine = *w.in->of;
  u32 const number = other.who / lanes, clock = other.who % lanes;
  if (other.when < began) return false;  // of the launch ahead
  if (number == mine.number) return other.when <= w.known[clock];
  auto const found = mine.others.find(number);
  return found != mine.others.end() && other.when <= found->second[clock];
}
[[noreturn]] void race(warp const& w, instruction const& i, int lane, access how, char const* did,
                       touch const& other) {
  std::string text = std::string(word(how)) + " global memory that ";
  u32 const number = other.who / lanes, warps = static_cast<u32>(w.in->warps.size());
  u32 const rank = other.who % lanes / warps, blocks = static_cast<u32>(w.in->clocks) / warps;
  if (other.when < began)
    text += std::string("the launch ahead ") + did + ", without waiting for that";
  else if (number == w.in->of->number && w.in->of->blocks.at(rank) == w.in)
    text += "warp " + std::to_string(other.who % warps) + " " + did +
            ", without a barrier between them";
  else
    text += "block " + std::to_string(number * blocks + rank) + " " + did +
            ", without fences and an atomic operation between them";
  fail(w, i, text, lane);
}

// Two who write one place may both be right, if what they write is the same: what was there before
// the second did, until it has.
struct contest {
  instruction const* by;
  int lane;
  touch other;
  u64 address;
  std::vector<u8> before;
};
std::vector<contest> contests;

// Of those who read since a write, two of different clusters are kept: one who writes is not both.
// (Of a cluster's warps the last is: a race with an earlier one is not seen.)
void keep_reader(warp const& w, touches& t, u32 since, touch const& me) {
  for (touch& r : t.read)
    if (r.when < since || r.who / lanes == me.who / lanes || knows(w, r)) {
      r = me;
      return;
    }
}

}  // namespace

void begin_launch() {
  static u64 last = 0;  // the work that was a launch
  ahead = works == last + 1 ? began : ~0u;
  last = works;
  began = ++clock_now;
  ahead = std::min(ahead, began);
  locations.clear();
  contests.clear();  // of a launch that a fault ended
  in_contest = false;
}
void settle_contests(warp& w) {
  in_contest = false;
  for (contest const& c : std::exchange(contests, {}))
    if (std::memcmp(reinterpret_cast<void const*>(c.address), c.before.data(), c.before.size()) !=
        0)
      race(w, *c.by, c.lane, access::write, "wrote", c.other);
}
void fence(warp& w) {
  join(w.in->of->others, w.seen);
  w.seen.clear();
  w.fenced = true;
  w.at_fence = {};
  tell(w.at_fence, w);
  ++clock_now;
}

void touch_all(warp& w, instruction const& i, int lane, array& a, u64 address, u32 bytes,
               access how) {
  bool const plain = i.order == ordering::plain, writes = how != access::read;
  if (i.order == ordering::fenced) fence(w);
  if (!plain) exchange(w, address);
  if (i.order == ordering::fenced) fence(w);
  cluster const& mine = *w.in->of;
  u32 const since = mine.waited ? began : ahead;
  touch const me{clock_now, mine.number * lanes + static_cast<u32>(w.clock)};
  u64 const end = (address - a.base + bytes + 1) / 2;
  bool contested = false;
  for (u64 n = (address - a.base) / 2; n < end; ++n) {
    touches& t = a.touched(n);
    if (!contested && t.wrote.when >= since && (plain || !t.atomic) && !knows(w, t.wrote)) {
      if (how != access::write) race(w, i, lane, how, "wrote", t.wrote);
      auto const* const now = reinterpret_cast<u8 const*>(address);
      contests.push_back({&i, lane, t.wrote, address, {now, now + bytes}});
      contested = in_contest = true;
    }
    if (writes) {
      for (touch const& r : t.read)
        if (r.when >= since && !knows(w, r)) race(w, i, lane, how, "read", r);
      t = {me, {}, !plain};
    } else if (plain) {
      keep_reader(w, t, since, me);
    }
  }
}

}  // namespace emulator
