// Branches, returns, and barriers of a warp, of a block, and in shared memory.
// SPDX-License-Identifier: Apache-2.0
#include "ptx.hpp"

namespace emulator {
namespace {

u32 taking(warp& w, instruction const& i) {
  if (!i.guard) return w.now.mask;
  u32 const p = w.predicate(i.guard);
  return w.now.mask & (i.unless ? ~p : p);
}
void branch(warp& w, instruction const& i) {
  u32 const taken = taking(w, i), rest = w.now.mask & ~taken;
  if (!taken) return;
  if (rest) w.others.push_back({w.now.next, rest, false});
  w.now = {i.target, taken, false};
}
void leave(warp& w, instruction const& i) {
  u32 const gone = taking(w, i);
  w.live &= ~gone;
  w.now.mask &= ~gone;
  for (group& other : w.others) other.waits = false;  // perhaps for these
}
void jump(statement& s, std::string_view label) {
  s.emit(branch).branches = true;
  branch_to(s, label);
}
void decode_ret(statement& s) {
  if (in_function(s))
    jump(s, "");
  else
    s.emit(leave).branches = true;
}

void meet_in_warp(warp& w, instruction const& i) {
  together(w, i, w.reg<u32>(i.at[0])[w.first_lane()] & w.live);
}
void meet_in_block(warp& w, instruction const& i) {
  if (!together(w, i, w.live)) return;
  barrier& b = w.in->barriers.at(w.reg<u32>(i.at[0])[w.first_lane()]);
  b.arrived += lanes;
  b.waiting.push_back(&w);
  b.counted = i.count > 1;
  w.is = warp::state::at_barrier;
  if (b.counted && b.arrived >= w.reg<u32>(i.at[1])[w.first_lane()]) open(b);
}
void decode_bar(statement& s) {
  if (!s.has("sync")) s.refuse();
  if (s.has("warp")) {
    s.emit(meet_in_warp).at[0] = s.read(s.operand(0), 4);
    return;
  }
  instruction& i = s.emit(meet_in_block);
  i.count = static_cast<u8>(s.operands.size());
  for (std::size_t n = 0; n < s.operands.size(); ++n) i.at[n] = s.read(s.operand(n), 4);
}

// The number of an mbarrier is kept beside shared memory, in which it only has its place.
u64 place_of(warp& w, instruction const& i, int lane, access how) {
  u64 const at =
      (i.wide ? w.reg<u64>(i.at[8])[lane] : w.reg<u32>(i.at[8])[lane]) + static_cast<u64>(i.number);
  reach(w, i, lane, space::shared, at, 8, how);
  return at;
}
phase_barrier& phases_at(warp& w, instruction const& i, int lane) {
  auto const found = w.in->phases.find(place_of(w, i, lane, access::read));
  if (found == w.in->phases.end()) fail(w, i, "uses an mbarrier that is none", lane);
  return found->second;
}
void make_phases(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u32 const count = w.reg<u32>(i.at[0])[l];
    w.in->phases[place_of(w, i, l, access::write)] = {count, count, 0, {}};
  }
}
void arrive(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    phase_barrier& b = phases_at(w, i, l);
    tell(b.known, w);
    if (--b.pending == 0) {
      b.pending = b.expected;
      b.phase ^= 1;
    }
  }
  ++clock_now;
}
void test_phase(warp& w, instruction const& i) {
  u32 done = 0;
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    phase_barrier const& b = phases_at(w, i, l);
    if (b.phase == (w.reg<u32>(i.at[1])[l] & 1)) continue;
    learn(w, b.known);
    done |= 1u << l;
  }
  w.set_predicate(i.at[0], done);
  w.yields = done != w.now.mask;
}
void decode_mbarrier(statement& s) {
  if (s.has("init")) {
    u32 const count = s.read(s.operand(1), 4);
    instruction& i = s.emit(make_phases);
    i.at[0] = count;
    s.address(i, s.operand(0), 8);
  } else if (s.has("arrive") && s.operands.size() == 2) {
    s.address(s.emit(arrive), s.operand(1), 8);
  } else if (s.has("test_wait") && s.has("parity")) {
    u32 const parity = s.read(s.operand(2), 4);
    instruction& i = s.emit(test_phase);
    i.at[0] = s.written(s.operand(0));
    i.at[1] = parity;
    s.address(i, s.operand(1), 8);
  } else {
    s.refuse();
  }
}
void nothing(warp&, instruction const&) {}

}  // namespace

bool together(warp& w, instruction const& i, u32 needed) {
  if ((w.now.mask & needed) == needed) return true;
  if (w.others.empty()) fail(w, i, "waits for lanes that have left");
  w.stays = true;
  return false;
}

void add_control(decoders& all) {
  all["bra"] = [](statement& s) { jump(s, s.operand(0)); };
  all["ret"] = all["exit"] = decode_ret;
  all["call"] = call;
  all["bar"] = all["barrier"] = decode_bar;
  all["mbarrier"] = decode_mbarrier;
  all["trap"] = [](statement& s) {
    s.emit([](warp& w, instruction const& i) { fail(w, i, "traps"); });
  };
  // Memory has one order here, and no cache.
  all["membar"] = all["fence"] = all["prefetch"] = [](statement& s) { s.emit(nothing); };
}

}  // namespace emulator
