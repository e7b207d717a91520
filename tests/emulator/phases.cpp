// Barriers in shared memory, which count arrivals and bytes, and the barrier of a cluster.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "hopper.hpp"

namespace emulator {

// What is kept of an mbarrier stands beside shared memory, in which it only has its place.
phase_barrier& phases_of(warp& w, instruction const& i, int lane, u64 at) {
  block& b = block_at(w, i, lane, at);
  u64 const place = at & offset_mask;
  auto const found = b.phases.find(place);
  if (found == b.phases.end()) fail(w, i, "uses an mbarrier that is none", lane);
  reach_shared(w, b, i, lane, place, 8, access::read);
  return found->second;
}

namespace {

void make_phases(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const at = address_of(w, i, l);
    reach(w, i, l, space::shared, at, 8, access::write);
    u32 const count = w.reg<u32>(i.at[0])[l];
    phase_barrier& made = w.in->phases[at] = {};
    made.expected = made.pending = count;
  }
}
void end_phase(phase_barrier& b) {
  if (b.pending > 0 || b.bytes != 0) return;
  b.pending = b.expected;
  b.phase ^= 1;
}
void arrive_once(phase_barrier& b, warp const& w) {
  tell(b.known, w);
  --b.pending;
  end_phase(b);
}
void arrive(warp& w, instruction const& i) {  // at: bytes to expect, or none
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    phase_barrier& b = phases_of(w, i, l, address_of(w, i, l));
    if (i.at[0]) b.bytes += w.reg<u32>(i.at[0])[l];
    arrive_once(b, w);
  }
  ++clock_now;
}
// When this thread's copies until now are complete, which they are not before somebody asks.
void arrive_after_copies(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    phase_barrier& b = phases_of(w, i, l, address_of(w, i, l));
    int const last = w.commits[static_cast<u32>(l)];
    b.promised.push_back([&w, &i, &b, l, last] {
      finish_copies(w, i, l, last);
      arrive_once(b, w);
      ++clock_now;
    });
  }
}
void test_phase(warp& w, instruction const& i) {
  u32 done = 0;
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    phase_barrier& b = phases_of(w, i, l, address_of(w, i, l));
    for (auto const& what : std::exchange(b.promised, {})) what();
    if (b.phase == (w.reg<u32>(i.at[1])[l] & 1)) continue;
    learn(w, b.known);
    done |= 1u << l;
  }
  w.set_predicate(i.at[0], done);
  w.yields = w.now.spins = done != w.now.mask;
}
void decode_mbarrier(statement& s) {
  if (s.has("init")) {
    u32 const count = s.read(s.operand(1), 4);
    instruction& i = s.emit(make_phases);
    i.at[0] = count;
    s.address(i, s.operand(0), 8);
  } else if (s.has("arrive") && s.operands.size() == (s.has("expect_tx") ? 3 : 2)) {
    u32 const bytes = s.has("expect_tx") ? s.read(s.operand(2), 4) : 0;
    instruction& i = s.emit(arrive);
    i.at[0] = bytes;
    s.address(i, s.operand(1), 8);
  } else if ((s.has("test_wait") || s.has("try_wait")) && s.has("parity")) {
    u32 const parity = s.read(s.operand(2), 4);
    instruction& i = s.emit(test_phase);
    i.at[0] = s.written(s.operand(0));
    i.at[1] = parity;
    s.address(i, s.operand(1), 8);
  } else {
    s.refuse();
  }
}

void map_address(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l)
    if (w.on(l)) w.reg<u32>(i.at[0])[l] = in_block(w.reg<u32>(i.at[1])[l], w.reg<u32>(i.at[2])[l]);
}
void meet_in_cluster(warp& w, instruction const& i) {
  if (!together(w, i, w.live)) return;
  barrier& b = w.in->of->meeting;
  b.waiting.push_back(&w);
  w.is = warp::state::at_barrier;
  u32 alive = 0;
  for (block const* one : w.in->of->blocks) alive += one->alive;
  if (b.waiting.size() == alive) open(b);
}

}  // namespace

void come(phase_barrier& b, std::size_t clock, u32 when, u32 bytes) {
  b.known[clock] = std::max(b.known[clock], when);
  b.bytes -= bytes;
  end_phase(b);
}

void add_phases(decoders& all) {
  all["mbarrier"] = decode_mbarrier;
  all["mapa"] = [](statement& s) {
    if (!s.has("shared::cluster")) s.refuse();
    s.emit(map_address, {4, 4});
  };
}
void decode_cluster_barrier(statement& s) {
  // Arriving and waiting are two instructions that stand one behind the other: the second waits.
  if (s.has("wait"))
    s.emit(meet_in_cluster);
  else if (!s.has("arrive"))
    s.refuse();
}
void decode_arrival_of_copies(statement& s) {
  if (!s.has("noinc")) s.refuse();
  s.address(s.emit(arrive_after_copies), s.operand(0), 8);
}

}  // namespace emulator
