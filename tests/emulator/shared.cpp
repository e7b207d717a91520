// Faults in shared memory: accesses beyond it, of what nobody wrote, and without a barrier between.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "checks.hpp"

namespace emulator {

void history::make(std::size_t size, std::size_t warps) {
  granules = size / bytes + 1;
  row = (warps + 7) / 8 * 8;
  std::size_t const all = granules * (1 + parts);
  // What is left there is of blocks that have ended, and everyone knows it.
  cells.resize(std::max(cells.size(), all));
  reads.resize(std::max(reads.size(), all * row));
  for (std::size_t g = 0; g < granules; ++g) cells[g].apart = false;
}
void history::read_by_several(std::size_t at) {
  cell& c = cells[at];
  std::fill_n(&reads[at * row], row, 0);
  reads[at * row + c.reader] = c.read;
  c.several = true;
}
void history::take_apart(std::size_t granule) {
  std::size_t const first = part_at(granule * bytes);
  std::fill_n(&cells[first], parts, cells[granule]);
  for (u32 n = 0; cells[granule].several && n < parts; ++n)
    std::copy_n(&reads[granule * row], row, &reads[(first + n) * row]);
  cells[granule].apart = true;
}

namespace {

// Whether one of so many numbers, a multiple of 8, is more than the other.
bool any_more(u32 const* a, u32 const* b, std::size_t count) {
  using eight = u32 __attribute__((vector_size(32)));
  eight more{};
  for (std::size_t n = 0; n < count; n += 8) {
    eight x, y;
    std::memcpy(&x, a + n, sizeof x);
    std::memcpy(&y, b + n, sizeof y);
    more |= reinterpret_cast<eight>(x > y);
  }
  u64 each[4];
  std::memcpy(each, &more, sizeof each);
  return (each[0] | each[1] | each[2] | each[3]) != 0;
}

// Whether an access to a cell is right. An update may follow another, and needs to know no more than
// that somebody wrote before.
template <access How>
bool try_cell(warp& w, block& b, std::size_t at) {
  history& h = b.words;
  history::cell& c = h.cells[at];
  if (How != access::write && (c.wrote < b.began || c.on_its_way)) return false;
  if (How == access::update) return true;
  if (c.wrote > w.known[c.writer]) return false;
  u32* const reads = &h.reads[at * h.row];
  if (How == access::read) {
    if (!c.several && c.read > w.known[c.reader]) h.read_by_several(at);
    (c.several ? reads[w.clock] : c.read) = clock_now;
    c.reader = static_cast<u8>(w.clock);
    return true;
  }
  if (c.several ? any_more(reads, w.known.data(), h.row) : c.read > w.known[c.reader]) return false;
  h.write(at, clock_now, w.clock);
  return true;
}
template <access How>
bool try_cells(warp& w, block& b, u64 at, u64 end) {
  history& h = b.words;
  if (end > b.shared_bytes) return false;
  for (u64 next = 0; at < end; at = next) {
    u64 const g = at / history::bytes;
    next = std::min((g + 1) * history::bytes, end);
    bool const whole = next - at == history::bytes;
    if (!h.cells[g].apart && (whole || How == access::update)) {
      if (!try_cell<How>(w, b, g)) return false;
      continue;
    }
    if (!h.cells[g].apart) h.take_apart(g);
    for (std::size_t part = h.part_at(at); part <= h.part_at(next - 1); ++part)
      if (!try_cell<How>(w, b, part)) return false;
    if (How == access::write && whole) h.write(g, clock_now, w.clock);  // one again
  }
  return true;
}
bool try_cells(warp& w, block& b, u64 at, u64 end, access how) {
  return how == access::read    ? try_cells<access::read>(w, b, at, end)
         : how == access::write ? try_cells<access::write>(w, b, at, end)
                                : try_cells<access::update>(w, b, at, end);
}

// Says what was wrong.
[[noreturn]] void explain(warp const& w, block const& b, instruction const& i, int lane, u64 at,
                          u64 end, access how) {
  if (end > b.shared_bytes)
    fail(w, i,
         std::string(word(how)) + " byte " + std::to_string(at) + " of " +
             std::to_string(b.shared_bytes) + " in shared memory",
         lane);
  auto const race = [&](char const* did, std::size_t other) {
    std::size_t const warps = w.in->warps.size();
    bool const alone = w.in->clocks == warps;
    fail(w, i,
         std::string(word(how)) + " shared memory that warp " + std::to_string(other % warps) +
             (alone ? "" : " of block " + std::to_string(other / warps) + " of its cluster") + " " +
             did + ", without a barrier between them",
         lane);
  };
  history const& h = b.words;
  for (; at < end; ++at) {
    std::size_t const cell = h.cell_at(at);
    auto const& c = h.cells[cell];
    if (how != access::write && (c.wrote < b.began || c.on_its_way))
      fail(w, i, "reads shared memory that nobody wrote", lane);
    if (c.wrote > w.known[c.writer]) race("wrote", c.writer);
    if (how != access::write) continue;
    if (!c.several && c.read > w.known[c.reader]) race("read", c.reader);
    for (std::size_t x = 0; c.several && x < h.row; ++x)
      if (h.reads[cell * h.row + x] > w.known[x]) race("read", x);
  }
  fail(w, i, "is wrong in shared memory", lane);
}

template <access How>
void reach_runs(warp& w, instruction const& i, u32 mask, addresses const& of, u32 bytes,
                runs const& all, places& to) {
  block& b = *w.in;
  for (u32 l = 0, end = 0; l < lanes; l = end) {
    end = all.end(l);
    if (!(mask >> l & 1)) continue;
    u64 const at = of[l] & 0xffffffff, step = all.step(l);
    bool const right =
        !(at & (bytes - 1)) && try_cells<How>(w, b, at, at + bytes + (end - 1 - l) * step);
    for (u32 n = l; !right && n < end; ++n)  // whose is it?
      reach(w, i, static_cast<int>(n), space::shared, of[n], bytes, How);
    for (u32 n = l; n < end; ++n) to[n] = b.shared + (of[n] & 0xffffffff);
  }
}

}  // namespace

u8* reach_shared(warp& w, block& b, instruction const& i, int lane, u64 at, u32 bytes, access how) {
  if (!try_cells(w, b, at, at + bytes, how)) explain(w, b, i, lane, at, at + bytes, how);
  return b.shared + at;
}
places reach_shared_all(warp& w, instruction const& i, u32 mask, addresses const& of, u32 bytes,
                        access how, runs const& all) {
  places to{};
  if (how == access::read)
    reach_runs<access::read>(w, i, mask, of, bytes, all, to);
  else
    reach_runs<access::write>(w, i, mask, of, bytes, all, to);
  return to;
}
void forget(block& b, u32 at, u32 bytes) {
  for (u32 n = at; n < at + bytes; n += b.words.bytes_at(n))
    b.words.cells[b.words.cell_at(n)].on_its_way = true;
  std::memset(b.shared + at, 0xff, bytes);
}

}  // namespace emulator
