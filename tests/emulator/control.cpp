// Branches, returns, and barriers of a warp, of a block, and in shared memory.
// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "hopper.hpp"
#include "memory.hpp"

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
  if (rest) w.others.push_back({w.now.next, rest, false, w.now.spins});
  w.now = {i.target, taken, false, w.now.spins};
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
void arrive_in_block(warp& w, instruction const& i) {
  if (!together(w, i, w.live)) return;
  barrier& b = w.in->barriers.at(w.reg<u32>(i.at[0])[w.first_lane()]);
  b.arrived += lanes;
  b.counted = true;
  tell(b.known, w);
  ++clock_now;
  if (b.arrived >= w.reg<u32>(i.at[1])[w.first_lane()]) open(b);
}
void count_in_block(warp& w, instruction const& i) {  // at: barrier; 2 destination, 3 predicate
  if (!together(w, i, w.live)) return;
  u32 const p = w.predicate(i.at[3]);
  w.in->barriers.at(w.reg<u32>(i.at[0])[w.first_lane()]).total +=
      static_cast<u32>(std::popcount((i.inverted ? ~p : p) & w.live));
  w.total_at = i.at[2];
  meet_in_block(w, i);
}
void decode_bar(statement& s) {
  if (s.has("cluster")) return decode_cluster_barrier(s);
  if (s.has("red") && s.has("popc") && s.operands.size() == 3) {
    instruction& i = s.emit(count_in_block);
    i.at[0] = s.read(s.operand(1), 4);
    i.at[2] = s.written(s.operand(0));
    i.at[3] = s.predicate(s.operand(2), i.inverted);
    return;
  }
  bool const arrives = s.has("arrive") && s.operands.size() == 2;
  if (!s.has("sync") && !arrives) s.refuse();
  if (s.has("warp")) {
    s.emit(meet_in_warp).at[0] = s.read(s.operand(0), 4);
    return;
  }
  instruction& i = s.emit(arrives ? arrive_in_block : meet_in_block);
  i.count = static_cast<u8>(s.operands.size());
  for (std::size_t n = 0; n < s.operands.size(); ++n) i.at[n] = s.read(s.operand(n), 4);
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
  all["trap"] = [](statement& s) {
    s.emit([](warp& w, instruction const& i) { fail(w, i, "traps"); });
  };
  // Memory has no cache here, and registers are there for all. A fence matters to who counts on it.
  all["setmaxnreg"] = all["prefetch"] = [](statement& s) { s.emit(nothing); };
  all["membar"] = all["fence"] = [](statement& s) {
    bool const far = s.has("gl") || s.has("gpu") || s.has("sys");
    s.emit(far ? [](warp& w, instruction const&) { fence(w); } : nothing);
  };
  all["griddepcontrol"] = [](statement& s) {
    s.emit(s.has("wait") ? [](warp& w, instruction const&) { w.in->of->waited = true; } : nothing);
  };
}

}  // namespace emulator
