// Copies to shared memory that are waited for, and matrices there.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "hopper.hpp"

namespace emulator {
namespace {

// Until a copy is waited for, what it will write counts as unwritten.
void begin_copies(warp& w, instruction const& i) {
  addresses const to = addresses_of(w, i, 0);
  reach_all(w, i, w.now.mask, space::shared, to, i.count, access::write);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    auto const lane = static_cast<u32>(l);
    pending_copy c{l, static_cast<u32>(to[lane]), 0, i.count, i.count, w.commits[lane]};
    c.from = w.reg<u64>(i.at[1])[l] + static_cast<u64>(i.source_number);
    if (i.at[2]) c.taken = std::min(w.reg<u32>(i.at[2])[l], c.bytes);
    if (c.from & (c.bytes - 1)) fail(w, i, "copies from where it is not aligned", l);
    forget(*w.in, c.to, c.bytes);
    w.copies.push_back(c);
  }
}
void finish(warp& w, instruction const& i, pending_copy const& c) {
  u8* const to = reach(w, i, c.lane, space::shared, c.to, c.bytes, access::write);
  if (c.taken == c.bytes) {
    auto const* const from = reach(w, i, c.lane, space::global, c.from, c.bytes, access::read);
    std::memcpy(to, from, c.bytes);
    return;
  }
  std::memset(to, 0, c.bytes);
  for (u32 n = 0; n < c.taken; ++n)  // of any size: a byte is always aligned
    to[n] = *reach(w, i, c.lane, space::global, c.from + n, 1, access::read);
}
// number: how many groups of a lane may stay; all that it began are finished if that is negative.
void wait_for_copies(warp& w, instruction const& i) {
  std::erase_if(w.copies, [&](pending_copy const& c) {
    bool const due =
        i.number < 0 || c.commit < w.commits[static_cast<u32>(c.lane)] - static_cast<int>(i.number);
    if (due && w.on(c.lane)) finish(w, i, c);
    return due && w.on(c.lane);
  });
}
void commit_copies(warp& w, instruction const&) {
  for (u32 l = 0; l < lanes; ++l) w.commits[l] += w.on(static_cast<int>(l));
}
void decode_cp(statement& s) {
  if (s.has("bulk")) return decode_bulk(s);
  if (s.has("mbarrier")) return decode_arrival_of_copies(s);
  if (s.has("commit_group")) {
    s.emit(commit_copies);
  } else if (s.has("wait_group") || s.has("wait_all")) {
    s.emit(wait_for_copies).number = s.has("wait_all") ? -1 : integer(s.operand(0));
  } else if (s.words.size() > 4 && s.words[1] == "async" && s.words[3] == "shared" &&
             s.words[4] == "global") {
    instruction source;
    s.address(source, s.operand(1), 1);
    instruction& i = s.emit(begin_copies);
    s.address(i, s.operand(0), 0);
    i.at[1] = source.at[1];
    i.source_number = source.number;
    i.count = static_cast<u8>(integer(s.operand(2)));
    if (s.operands.size() > 3) i.at[2] = s.read(s.operand(3), 4);
  } else {
    s.refuse();
  }
}

places reach_rows(warp& w, instruction const& i, access how) {
  u32 const mask = every_lane >> (lanes - 8 * i.count);
  return reach_all(w, i, mask, space::shared, addresses_of(w, i), 16, how);
}
// Matrices of 8 x 8: lane l gives the address of row l % 8 of matrix l / 8, and gets two numbers.
template <bool Transposed>
void load_matrices(warp& w, instruction const& i) {
  if (!together(w, i, every_lane)) return;
  u16 m[4][8][8];
  places const rows = reach_rows(w, i, access::read);
  for (u32 l = 0; l < 8u * i.count; ++l) std::memcpy(m[l / 8][l % 8], rows[l], 16);
  for (u32 n = 0; n < i.count; ++n) {
    u32* const d = w.reg<u32>(i.at[n]);
    for (int l = 0; l < lanes; ++l) {
      int const r = l / 4, c = l % 4 * 2;
      d[l] = Transposed ? m[n][c][r] | u32{m[n][c + 1][r]} << 16
                        : m[n][r][c] | u32{m[n][r][c + 1]} << 16;
    }
  }
}
// The other way of ldmatrix: lane l gives the address of row l % 8 of matrix l / 8, and two numbers.
template <bool Transposed>
void store_matrices(warp& w, instruction const& i) {
  if (!together(w, i, every_lane)) return;
  u16 m[4][8][8];
  for (u32 n = 0; n < i.count; ++n)
    for (int l = 0; l < lanes; ++l) {
      int const r = l / 4, c = l % 4 * 2;
      u32 const pair = w.reg<u32>(i.at[n])[l];
      for (int e = 0; e < 2; ++e)
        (Transposed ? m[n][c + e][r] : m[n][r][c + e]) = static_cast<u16>(pair >> 16 * e);
    }
  places const rows = reach_rows(w, i, access::write);
  for (u32 l = 0; l < 8u * i.count; ++l) std::memcpy(rows[l], m[l / 8][l % 8], 16);
}
// ldmatrix numbers, [address] and stmatrix [address], numbers.
void decode_matrices(statement& s, bool stores) {
  if (!s.has("m8n8") || s.type() != "b16") s.refuse();
  bool const transposed = s.has("trans");
  instruction& i = s.emit(stores       ? transposed ? store_matrices<true> : store_matrices<false>
                                : transposed ? load_matrices<true>
                                       : load_matrices<false>);
  auto const numbers = statement::vector(s.operand(stores));
  i.count = static_cast<u8>(numbers.size());
  for (std::size_t n = 0; n < numbers.size(); ++n)
    i.at[n] = stores ? s.read(numbers[n], 4) : s.written(numbers[n]);
  s.address(i, s.operand(!stores), 8);
}

}  // namespace

void finish_copies(warp& w, instruction const& i, int lane, int last) {
  std::erase_if(w.copies, [&](pending_copy const& c) {
    bool const due = c.lane == lane && c.commit <= last;
    if (due) finish(w, i, c);
    return due;
  });
}

void add_copies(decoders& all) {
  all["stmatrix"] = [](statement& s) { decode_matrices(s, true); };
  all["cp"] = decode_cp;
  all["ldmatrix"] = [](statement& s) { decode_matrices(s, false); };
}

}  // namespace emulator
