// Runs kernels: the lanes of a warp, the warps of a block, the blocks of a grid.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "checks.hpp"
#include "memory.hpp"

namespace emulator {
namespace {

u64 const seed = [] {
  char const* const set = std::getenv("FINEGRAIN_EMULATOR_SEED");
  return set ? std::strtoull(set, nullptr, 10) : 0;
}();
u64 drawn(u64 below) {
  static u64 state = 88172645463325252u + seed;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % below;
}

constexpr u64 most_instructions = 400'000'000;  // of a launch: more are an endless loop

// Where a grid that synchronises has its barrier: the device's library finds it in two registers.
u8* grid_barrier() {
  static u8* const made = static_cast<u8*>(make_array(256, true));
  return made;
}

// Goes on with those lanes that are least far: so the parts of a warp come together again.
void choose(warp& w) {
  auto& all = w.others;
  if (w.now.mask) all.push_back(w.now);
  w.now = {};
  for (std::size_t a = 0; a < all.size(); ++a)
    for (std::size_t b = a + 1; b < all.size();)
      if (all[a].next == all[b].next) {
        all[a] = {all[a].next, all[a].mask | all[b].mask, false};
        all[b] = all.back();
        all.pop_back();
      } else {
        ++b;
      }
  if (all.empty()) return;
  std::size_t best = all.size();
  for (bool const spinning : {false, true}) {
    for (std::size_t n = 0; n < all.size(); ++n)
      if (!all[n].waits && all[n].spins == spinning &&
          (best == all.size() || all[n].next < all[best].next))
        best = n;
    if (best != all.size()) break;
  }
  if (best == all.size())
    fail(w, w.of->code[static_cast<std::size_t>(all[0].next)],
         "has lanes that wait for others, which wait elsewhere");
  if (all[best].spins)  // there are no others any more
    for (group& one : all) one.spins = false;
  if (all.size() > 1 && ++w.turns % 100000 == 0)  // one may wait in a loop for those behind it
    do best = drawn(all.size());
    while (all[best].waits);
  w.now = all[best];
  all[best] = all.back();
  all.pop_back();
}

// Runs a warp until it waits, or that many instructions; returns how many.
u64 advance(warp& w, u64 most) {
  instruction const* const code = w.of->code.data();
  u64 did = 0;
  while (w.is == warp::state::ready && did < most) {
    if (!w.others.empty() || !w.now.mask) {
      choose(w);
      if (!w.now.mask) {
        for (pending_store const& s : w.stores) s.finish();
        if (in_contest) settle_contests(w);
        w.is = warp::state::done;
        --w.in->alive;
        break;
      }
    }
    instruction const& i = code[w.now.next++];
    ++did;
    if (i.guard && !i.branches) {
      u32 const all = w.now.mask, p = w.predicate(i.guard);
      w.now.mask &= i.unless ? ~p : p;
      if (w.now.mask) i.run(w, i);
      w.now.mask = all;
    } else {
      i.run(w, i);
    }
    if (in_contest) settle_contests(w);
    if (w.stays) {
      --w.now.next;
      w.now.waits = true;
      w.stays = false;
    }
    if (std::exchange(w.yields, false)) break;
  }
  return did;
}

template <class T>
void fill(warp& w, u32 at, T x) {
  std::fill_n(w.reg<T>(at), lanes, x);
}
void prepare(warp& w, block& b, kernel const& k, int index) {
  if (w.of != &k) {
    w.of = &k;
    w.register_store.assign(k.register_bytes + 64, 0xab);
    w.registers = w.register_store.data();
    w.registers += -reinterpret_cast<u64>(w.registers) % 64;
    for (auto const& c : k.constants) switch (c.bytes) {
        case 0: w.predicate(c.at) = static_cast<u32>(c.bits); break;
        case 2: fill(w, c.at, static_cast<u16>(c.bits)); break;
        case 4: fill(w, c.at, static_cast<u32>(c.bits)); break;
        default: fill(w, c.at, c.bits);
      }
  }
  u32 const first = static_cast<u32>(lanes * index);
  u32 const here = std::min<u32>(lanes, static_cast<u32>(b.size.count()) - first);
  w.in = &b;
  w.index = index;
  w.live = here == lanes ? every_lane : (1u << here) - 1;
  w.now = {0, w.live, false};
  w.others.clear();
  w.carry = 0;
  w.is = warp::state::ready;
  w.stays = w.yields = false;
  w.copies.clear();
  w.products.clear();
  w.stores.clear();
  w.commits.fill(0);
  w.stored.fill(0);
  w.product_groups = 0;
  w.total_at = 0;
  w.fenced = false;
  w.seen.clear();
  w.clock = static_cast<std::size_t>(index) + b.first_clock;
  w.known.fill(b.began - 1);
  w.known.at(w.clock) = ~0u;
  learn(w, {});
  w.local.assign(std::size_t{lanes} * k.local_bytes, 0xff);
  w.local_written.assign(w.local.size(), 0);
  for (auto const& s : k.specials)
    for (u32 l = 0; l < lanes; ++l) w.reg<u32>(s.at)[l] = s.of(b, first + l);
}
void prepare(block& b, launch const& l, u64 number, cluster& of) {
  kernel const& k = *l.of;
  b.grid = l.grid;
  b.size = l.size;
  b.at = {static_cast<u32>(number % l.grid.x), static_cast<u32>(number / l.grid.x % l.grid.y),
          static_cast<u32>(number / l.grid.x / l.grid.y)};
  b.parameters = l.arguments.data();
  b.shared_bytes = k.shared_bytes + l.dynamic_bytes;
  b.began = ++clock_now;
  b.store.resize(std::max<std::size_t>(b.store.size(), b.shared_bytes + 1024));
  b.shared = b.store.data();
  b.shared += -reinterpret_cast<u64>(b.shared) % 1024;
  std::memset(b.shared, 0xff, b.shared_bytes);
  auto const warps = static_cast<u32>((l.size.count() + lanes - 1) / lanes);
  b.of = &of;
  b.first_clock = of.blocks.size() * warps;
  b.clocks = std::size_t{l.clustered} * warps;
  of.blocks.push_back(&b);
  b.words.make(b.shared_bytes, b.clocks);
  b.barriers = {};
  b.phases.clear();
  b.warps.resize(warps);
  b.alive = warps;
  for (u32 n = 0; n < warps; ++n) prepare(b.warps[n], b, k, static_cast<int>(n));
}

void open_if_all_wait(block& b) {
  for (barrier& one : b.barriers)
    if (!one.waiting.empty() && !one.counted && one.waiting.size() == b.alive) open(one);
}
void run_blocks(std::vector<block*> const& blocks) {
  std::vector<warp*> all;
  for (block* b : blocks)
    for (warp& w : b->warps) all.push_back(&w);
  for (u64 did = 0;;) {
    if (seed)
      for (std::size_t n = all.size(); n > 1; --n) std::swap(all[n - 1], all[drawn(n)]);
    bool moved = false, done = true;
    for (warp* w : all) {
      if (w->is == warp::state::ready) {
        did += advance(*w, seed ? 1 + drawn(100) : 1 << 14);
        moved = true;
      }
      done &= w->is == warp::state::done;
      open_if_all_wait(*w->in);
    }
    if (done) return;
    for (warp* w : all) {
      auto const& i = w->of->code[static_cast<std::size_t>(w->now.next)];
      if (!moved && w->is == warp::state::at_barrier)
        fail(*w, *(&i - 1), "waits at a barrier that others do not come to");
      if (did > most_instructions && w->is == warp::state::ready) fail(*w, i, "does not end");
    }
  }
}

}  // namespace

u32 (*special_register(std::string_view name))(block const&, u32) {
  using b = block const&;
  using value = u32 (*)(b, u32);
  static std::unordered_map<std::string_view, value> const all{
      {"%tid.x", [](b in, u32 t) { return t % in.size.x; }},
      {"%tid.y", [](b in, u32 t) { return t / in.size.x % in.size.y; }},
      {"%tid.z", [](b in, u32 t) { return t / in.size.x / in.size.y; }},
      {"%ntid.x", [](b in, u32) { return in.size.x; }},
      {"%ntid.y", [](b in, u32) { return in.size.y; }},
      {"%ntid.z", [](b in, u32) { return in.size.z; }},
      {"%ctaid.x", [](b in, u32) { return in.at.x; }},
      {"%ctaid.y", [](b in, u32) { return in.at.y; }},
      {"%ctaid.z", [](b in, u32) { return in.at.z; }},
      {"%nctaid.x", [](b in, u32) { return in.grid.x; }},
      {"%nctaid.y", [](b in, u32) { return in.grid.y; }},
      {"%nctaid.z", [](b in, u32) { return in.grid.z; }},
      {"%cluster_ctarank",
       [](b in, u32) {
         auto const& all = in.of->blocks;
         return static_cast<u32>(std::find(all.begin(), all.end(), &in) - all.begin());
       }},
      {"%laneid", [](b, u32 t) { return t % lanes; }},
      {"%lanemask_lt", [](b, u32 t) { return (1u << t % lanes) - 1; }},
      {"%envreg1",
       [](b, u32) { return static_cast<u32>(reinterpret_cast<u64>(grid_barrier()) >> 32); }},
      {"%envreg2", [](b, u32) { return static_cast<u32>(reinterpret_cast<u64>(grid_barrier())); }},
  };
  auto const found = all.find(name);
  return found == all.end() ? nullptr : found->second;
}

void run(launch const& l) {
  kernel& k = *l.of;
  if (k.code.empty()) {
    kernel made = k;  // what cannot be assembled stays as it was
    assemble(made);
    k = std::move(made);
  }
  begin_launch();
  u64 const count = l.grid.count();
  if (l.together) {
    std::vector<std::unique_ptr<block>> owned;
    std::vector<block*> blocks;
    std::vector<cluster> alone(count);
    std::memset(grid_barrier(), 0, 256);
    grid_barrier()[1] = 1;  // as a number of 32 bits: 256, its size
    for (u64 n = 0; n < count; ++n) {
      owned.push_back(std::make_unique<block>());
      blocks.push_back(owned.back().get());
      alone[n].number = static_cast<u32>(n);
      prepare(*blocks.back(), l, n, alone[n]);
    }
    run_blocks(blocks);
    return;
  }
  static std::unordered_map<kernel const*, std::deque<block>> kept;  // with their constants
  if (kept.size() > 24 && !kept.contains(&k)) kept.clear();
  auto& blocks = kept[&k];
  blocks.resize(l.clustered);
  u64 const clusters = count / l.clustered, turn = seed ? drawn(clusters) : 0;
  for (u64 n = 0; n < clusters; ++n) {
    u64 const first = (seed ? (turn + clusters - n) % clusters : n) * l.clustered;
    cluster together{static_cast<u32>(first / l.clustered), !l.overlaps, {}, {}, {}};
    for (u32 rank = 0; rank < l.clustered; ++rank) prepare(blocks[rank], l, first + rank, together);
    run_blocks(together.blocks);
  }
}

}  // namespace emulator
