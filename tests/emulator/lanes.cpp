// What a warp's lanes do together: shuffles, votes, reductions, products of matrices.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "products.hpp"
#include "ptx.hpp"

namespace emulator {
namespace {

u32 members(warp& w, u32 at) { return w.reg<u32>(at)[w.first_lane()]; }
// Whether all lanes are here that the instruction names, and no others.
bool all_here(warp& w, instruction const& i, u32 named) {
  if (!together(w, i, named)) return false;
  if (w.now.mask & ~named) fail(w, i, "is done by a lane that its mask does not name");
  return true;
}

enum class from { up, down, butterfly, index };
template <from From>
void shuffle(warp& w, instruction const& i) {  // at: d, a, b, c, mask, p
  if (!all_here(w, i, members(w, i.at[4]))) return;
  u32 given[lanes], within = 0;
  std::memcpy(given, w.reg<u32>(i.at[1]), sizeof given);
  u32 *const d = w.reg<u32>(i.at[0]), *const b = w.reg<u32>(i.at[2]),
             *const c = w.reg<u32>(i.at[3]);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    int const segment = static_cast<int>(c[l] >> 8 & 31), clamp = static_cast<int>(c[l] & 31),
              by = static_cast<int>(b[l] & 31);
    int const first = l & segment, last = first | (clamp & ~segment);
    int other = From == from::up          ? l - by
                : From == from::down      ? l + by
                : From == from::butterfly ? l ^ by
                                          : first | (by & ~segment);
    bool const there = From == from::up ? other >= last : other <= last;
    if (!there) other = l;
    if (!w.on(other))
      fail(w, i, "takes a number of lane " + std::to_string(other) + ", which is not there", l);
    d[l] = given[other];
    within |= u32{there} << l;
  }
  if (i.at[5]) w.set_predicate(i.at[5], within);
}
void decode_shfl(statement& s) {
  auto const results = parts(s.operand(0), '|');
  instruction& i = s.emit(s.has("up")     ? shuffle<from::up>
                          : s.has("down") ? shuffle<from::down>
                          : s.has("bfly") ? shuffle<from::butterfly>
                          : s.has("idx")  ? shuffle<from::index>
                                          : nullptr);
  i.at[0] = s.written(results[0]);
  for (std::size_t n = 1; n <= 4; ++n) i.at[n] = s.read(s.operand(n), 4);
  if (results.size() > 1) i.at[5] = s.written(results[1]);
}

void vote(warp& w, instruction const& i) {  // at: d, p, mask
  if (!all_here(w, i, members(w, i.at[2]))) return;
  u32 const mask = w.now.mask;
  u32 const p = (i.inverted ? ~w.predicate(i.at[1]) : w.predicate(i.at[1])) & mask;
  if (i.mode == 0) {
    for (int l = 0; l < lanes; ++l)
      if (w.on(l)) w.reg<u32>(i.at[0])[l] = p;
  } else {
    w.set_predicate(i.at[0], (i.mode == 1 ? p != 0 : p == mask) ? every_lane : 0);
  }
}
void decode_vote(statement& s) {
  instruction& i = s.emit(vote);
  i.mode = s.has("ballot") ? 0 : s.has("any") ? 1 : s.has("all") ? 2 : 3;
  if (i.mode == 3) s.refuse();
  i.at[0] = s.written(s.operand(0));
  i.at[1] = s.predicate(s.operand(1), i.inverted);
  i.at[2] = s.read(s.operand(2), 4);
}

template <class T, class F>
void reduce(warp& w, instruction const& i) {  // at: d, a, mask
  if (!all_here(w, i, members(w, i.at[2]))) return;
  T const* const a = w.reg<T>(i.at[1]);
  T sum = a[w.first_lane()];
  for (int l = w.first_lane() + 1; l < lanes; ++l)
    if (w.on(l)) sum = static_cast<T>(F{}(sum, a[l]));
  for (int l = 0; l < lanes; ++l)
    if (w.on(l)) w.reg<T>(i.at[0])[l] = sum;
}
template <class F>
action reduce_of(std::string_view type, F) {
  return type == "s32" ? reduce<s32, F> : type == "u32" || type == "b32" ? reduce<u32, F> : nullptr;
}
void decode_redux(statement& s) {
  auto const t = s.type();
  s.emit(s.has("min")   ? reduce_of(t, [](auto a, auto b) { return std::min(a, b); })
         : s.has("max") ? reduce_of(t, [](auto a, auto b) { return std::max(a, b); })
         : s.has("add") ? reduce_of(t, [](auto a, auto b) { return a + b; })
         : s.has("and") ? reduce_of(t, [](auto a, auto b) { return a & b; })
         : s.has("or")  ? reduce_of(t, [](auto a, auto b) { return a | b; })
                        : nullptr,
         {4, 4});
}
template <class T>
void match(warp& w, instruction const& i) {  // at: d, a, mask
  if (!all_here(w, i, members(w, i.at[2]))) return;
  T a[lanes];
  std::memcpy(a, w.reg<T>(i.at[1]), sizeof a);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u32 same = 0;
    for (int other = 0; other < lanes; ++other)
      same |= u32{w.on(other) && a[other] == a[l]} << other;
    w.reg<u32>(i.at[0])[l] = same;
  }
}
void decode_match(statement& s) {
  if (!s.has("any")) s.refuse();
  s.emit(s.bytes() == 4 ? match<u32> : match<u64>, {s.bytes(), 4});
}

// C (16 x 8) += A (16 x 16) B. Lane l has rows l / 4 and l / 4 + 8 of A and C and column l / 4 of B,
// in pairs along the other side.
template <f32 (*Number)(u16)>
void multiply_tiles(warp& w, instruction const& i) {  // at: d 0-3, a 4-7, b 8-9, c 10-13
  if (!together(w, i, every_lane)) return;
  f32 a[16][tile_rows], b[16][8], sums[tile_rows][8];
  auto const spread = [&](u32 from, f32* to, int pitch) {
    u32 pairs[4][8];
    for (int t = 0; t < 4; ++t)
      for (int g = 0; g < 8; ++g) pairs[t][g] = w.reg<u32>(from)[4 * g + t];
    for (int t = 0; t < 4; ++t)
      for (int e = 0; e < 2; ++e)
        for (int g = 0; g < 8; ++g)
          to[(2 * t + e) * pitch + g] = Number(static_cast<u16>(pairs[t][g] >> 16 * e));
  };
  for (u32 r = 0; r < 4; ++r) spread(i.at[4 + r], &a[r / 2 * 8][r % 2 * 8], tile_rows);
  for (u32 r = 0; r < 2; ++r) spread(i.at[8 + r], b[r * 8], 8);
  multiply(a[0], b[0], sums[0], 8, 16, 8);
  f32 d[4][lanes];  // of which one may stand where another summand does
  for (u32 r = 0; r < 4; ++r) {
    std::memcpy(d[r], w.reg<f32>(i.at[10 + r]), sizeof d[r]);
    for (u32 g = 0; g < 8; ++g)
      for (u32 t = 0; t < 4; ++t) d[r][4 * g + t] += sums[g + 8 * (r / 2)][2 * t + r % 2];
  }
  for (u32 r = 0; r < 4; ++r) std::memcpy(w.reg<f32>(i.at[r]), d[r], sizeof d[r]);
}
void decode_mma(statement& s) {
  if (!s.has("m16n8k16") || !s.has("row") || !s.has("col") || s.type() != "f32") s.refuse();
  instruction& i = s.emit(s.has("bf16")  ? multiply_tiles<from_bf16>
                          : s.has("f16") ? multiply_tiles<from_half>
                                         : nullptr);
  std::size_t n = 0;
  for (std::size_t part = 0; part < 4; ++part)
    for (auto const one : statement::vector(s.operand(part)))
      i.at.at(n++) = part == 0 ? s.written(one) : s.read(one, 4);
  if (n != 14) s.refuse();
}

}  // namespace

void add_lanes(decoders& all) {
  all["shfl"] = decode_shfl;
  all["vote"] = decode_vote;
  all["redux"] = decode_redux;
  all["match"] = decode_match;
  all["mma"] = decode_mma;
}

}  // namespace emulator
