// Copies by the engine: tiles of arrays and rows of bytes, to shared memory and back.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "hopper.hpp"
#include "memory.hpp"

namespace emulator {
namespace {

constexpr u32 chunk = history::bytes, row_bytes = 128;

tensor_map const& map_at(warp& w, instruction const& i, int lane, u64 at) {
  auto const* const p = reach(w, i, lane, space::generic, at & ~u64{7}, 8, access::read);
  auto const& map = *reinterpret_cast<tensor_map const*>(p);
  if (map.marked != is_tensor_map) fail(w, i, "has no tensor map", lane);
  return map;
}
/// f(bytes in the panel, where they are in the array or nothing, how many) for each chunk of a tile.
template <class F>
void for_chunks(tensor_map const& map, s32 const (&at)[3], F f) {
  u64 panel = 0;
  for (u32 o = 0; o < map.box[2]; ++o)
    for (u32 m = 0; m < map.box[1]; ++m, panel += row_bytes) {
      s64 const outer = at[2] + s64{o}, middle = at[1] + s64{m};
      bool const there = outer >= 0 && outer < static_cast<s64>(map.sizes[2]) && middle >= 0 &&
                         middle < static_cast<s64>(map.sizes[1]);
      for (u32 n = 0; n < row_bytes; n += chunk) {
        s64 const first = at[0] + s64{n / map.number_bytes};
        s64 const left = static_cast<s64>(map.sizes[0]) - first;
        s64 const many = std::min<s64>(chunk / map.number_bytes, left);
        u64 const from = map.data + static_cast<u64>(outer) * map.strides[1] +
                         static_cast<u64>(middle) * map.strides[0] +
                         static_cast<u64>(first) * map.number_bytes;
        bool const some = there && first >= 0 && many > 0;
        f(panel + n, some ? from : 0, some ? static_cast<u32>(many) * map.number_bytes : 0);
      }
    }
}
// Between an array and a chunk, number by number where it is not whole.
void transfer(warp& w, instruction const& i, int lane, u8* here, u64 there, u32 bytes, access how,
              u32 number_bytes) {
  u32 const step = bytes == chunk ? chunk : number_bytes;
  for (u32 n = 0; n < bytes; n += step) {
    u8* const p = reach(w, i, lane, space::global, there + n, step, how);
    how == access::read ? std::memcpy(here + n, p, step) : std::memcpy(p, here + n, step);
  }
}

// What comes to shared memory counts as unwritten until somebody waits at its barrier.
void expect_chunk(warp& w, instruction const& i, int lane, block& b, u64 at) {
  reach_shared(w, b, i, lane, at, chunk, access::write);
  forget(b, static_cast<u32>(at), chunk);
}
u8* arrived(block& b, u64 at, std::size_t clock, u32 when) {
  b.words.write(at / history::bytes, when, clock);
  return b.shared + at;
}
struct ends {
  u64 to, barrier;
};
// The same places in each block of the cluster whose bit is set; one's own without a mask.
std::vector<ends> destinations(warp& w, instruction const& i, int lane) {
  u64 const to = w.reg<u32>(i.at[0])[lane], barrier = w.reg<u32>(i.at[5])[lane];
  if (!i.at[6]) return {{to, barrier}};
  std::vector<ends> all;
  for (u32 rank = 0; rank < w.in->of->blocks.size(); ++rank)
    if (w.reg<u16>(i.at[6])[lane] >> rank & 1)
      all.push_back(
          {in_block(static_cast<u32>(to), rank), in_block(static_cast<u32>(barrier), rank)});
  return all;
}
void load_tile(warp& w, instruction const& i) {  // at: to, map, 3 places, barrier, mask
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    tensor_map const& map = map_at(w, i, l, w.reg<u64>(i.at[1])[l]);
    s32 const at[3] = {w.reg<s32>(i.at[2])[l], w.reg<s32>(i.at[3])[l], w.reg<s32>(i.at[4])[l]};
    for (ends const& one : destinations(w, i, l)) {
      block& b = block_at(w, i, l, one.to);
      u64 const panel = one.to & offset_mask;
      if (panel % 1024) fail(w, i, "loads a panel to where none may stand", l);
      phase_barrier& done = phases_of(w, i, l, one.barrier);
      for_chunks(map, at, [&](u64 n, u64, u32) { expect_chunk(w, i, l, b, panel + n); });
      done.promised.push_back([&w, &i, &b, &done, l, panel, map, at, when = clock_now] {
        for_chunks(map, at, [&](u64 n, u64 from, u32 bytes) {
          u8* const to = arrived(b, swizzled(panel + n), w.clock, when);
          std::memset(to, 0, chunk);
          transfer(w, i, l, to, from, bytes, access::read, map.number_bytes);
        });
        come(done, w.clock, when, map.box[1] * map.box[2] * row_bytes);
      });
    }
  }
  ++clock_now;  // what the warp does from here on is later than what its copies tell
}
void load_bytes(warp& w, instruction const& i) {  // at: to, from, bytes; 5 the barrier
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const to = w.reg<u32>(i.at[0])[l], from = w.reg<u64>(i.at[1])[l];
    u32 const bytes = w.reg<u32>(i.at[2])[l];
    if (bytes % chunk || to % chunk) fail(w, i, "copies what is no multiple of 16 bytes", l);
    block& b = *w.in;
    phase_barrier& done = phases_of(w, i, l, w.reg<u32>(i.at[5])[l]);
    for (u32 n = 0; n < bytes; n += chunk) expect_chunk(w, i, l, b, to + n);
    done.promised.push_back([&w, &i, &b, &done, l, to, from, bytes, when = clock_now] {
      for (u32 n = 0; n < bytes; n += chunk)
        transfer(w, i, l, arrived(b, to + n, w.clock, when), from + n, chunk, access::read, chunk);
      come(done, w.clock, when, bytes);
    });
  }
  ++clock_now;
}

// A store reads shared memory as late as it may: when it is waited for, or at the end of its warp.
void store_tile(warp& w, instruction const& i) {  // at: map, 3 places, 5 from
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    tensor_map const& map = map_at(w, i, l, w.reg<u64>(i.at[1])[l]);
    s32 const at[3] = {w.reg<s32>(i.at[2])[l], w.reg<s32>(i.at[3])[l], w.reg<s32>(i.at[4])[l]};
    u64 const panel = w.reg<u32>(i.at[5])[l];
    if (panel % 1024) fail(w, i, "stores a panel from where none may stand", l);
    w.stores.push_back({l, w.stored[static_cast<u32>(l)], [&w, &i, l, panel, map, at] {
                          for_chunks(map, at, [&](u64 n, u64 to, u32 bytes) {
                            if (!bytes) return;
                            u8* const from = reach(w, i, l, space::shared, swizzled(panel + n),
                                                   chunk, access::read);
                            transfer(w, i, l, from, to, bytes, access::write, map.number_bytes);
                          });
                        }});
  }
}
void commit_stores(warp& w, instruction const&) {
  for (u32 l = 0; l < lanes; ++l) w.stored[l] += w.on(static_cast<int>(l));
}
void wait_for_stores(warp& w, instruction const& i) {
  std::erase_if(w.stores, [&](pending_store const& s) {
    bool const due =
        w.on(s.lane) && s.commit < w.stored[static_cast<u32>(s.lane)] - static_cast<int>(i.number);
    if (due) s.finish();
    return due;
  });
}

// [map, {inner, middle, outer}]
void map_and_places(statement& s, instruction& i, std::string_view operand) {
  auto const two = parts(operand.substr(1, operand.size() - 2));
  if (two.size() != 2) s.refuse();
  i.at[1] = s.read(two[0], 8);
  auto const places = statement::vector(two[1]);
  if (places.size() != 3) s.refuse();
  for (std::size_t n = 0; n < 3; ++n) i.at[2 + n] = s.read(places[n], 4);
}
u32 inside(statement& s, std::string_view operand, u32 bytes) {  // [%r1]
  return s.read(trimmed(operand.substr(1, operand.size() - 2)), bytes);
}

}  // namespace

void decode_bulk(statement& s) {
  if (s.has("prefetch")) {
    instruction places;
    map_and_places(s, places, s.operand(0));
  } else if (s.has("commit_group")) {
    s.emit(commit_stores);
  } else if (s.has("wait_group")) {
    s.emit(wait_for_stores).number = integer(s.operand(0));
  } else if (s.has("tensor") && s.has("3d") && s.has("bulk_group")) {
    instruction& i = s.emit(store_tile);
    map_and_places(s, i, s.operand(0));
    i.at[5] = inside(s, s.operand(1), 4);
  } else if (s.has("tensor") && s.has("3d") && s.has("tile")) {
    instruction& i = s.emit(load_tile);
    i.at[0] = inside(s, s.operand(0), 4);
    map_and_places(s, i, s.operand(1));
    i.at[5] = inside(s, s.operand(2), 4);
    if (s.operands.size() > 3) i.at[6] = s.read(s.operand(3), 2);
  } else if (s.has("shared::cluster") && s.has("global") && s.operands.size() == 4) {
    instruction& i = s.emit(load_bytes);
    i.at[0] = inside(s, s.operand(0), 4);
    i.at[1] = inside(s, s.operand(1), 8);
    i.at[2] = s.read(s.operand(2), 4);
    i.at[5] = inside(s, s.operand(3), 4);
  } else {
    s.refuse();
  }
}

}  // namespace emulator
