// meanwhile: what a tile does beside its multiply-adds: fetching, packing, storing.
//
// At every so many units of k a tile calls fetch(), either of a flow, that goes on from tile to tile, or
// of what it is given for itself. That may have an `also`: the tile calls also.some() at each cache line
// of k that it passes, and also.rest() at the end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "../base/bounds.hpp"
#include "../base/matrix.hpp"
#include "room.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// What goes on from tile to tile; else a tile is asked for what it is given, by `wishes`.
template <class M>
concept Flow = requires(M& m) {
  m.fetch();
};

/// Rows of numbers that will be read next, which a tile fetches into the second-level cache, row by row.
/// One fetch between two units' multiply-adds takes no time, where some at a time wait for one another;
/// of more than four the rest is left to the machine. A step of registers for matrices has 16 units.
struct ahead {
  static constexpr int every = together;  // units
  float const* first = nullptr;
  std::int64_t stride = 0;  // from row to row
  std::int64_t rows = 0;
  std::int64_t length = 0;            // of a row
  std::int64_t pace = 0, column = 0;  // lines at a time; the next one's place

  /// The same while a tile goes through so many units.
  ahead during(std::int64_t units) const {
    ahead same = *this;
    std::int64_t const lines = rows * ceil_div(length, line);
    same.pace =
        std::min<std::int64_t>(ceil_div(lines * every, std::max<std::int64_t>(units, 1)), 4);
    return same;
  }
  FINEGRAIN_INLINE void fetch() {
    for (std::int64_t i = 0; i < pace && rows > 0; ++i) {
      __builtin_prefetch(first + column, 0, 2);
      if ((column += line) < length) continue;
      column = 0;
      first += stride;
      --rows;
    }
  }
};
/// Nothing is fetched: what comes next is on its way.
struct no_fetching {
  static constexpr int every = together;
  FINEGRAIN_INLINE void fetch() {}
};
/// Memory that is read next as it stands, from end to end, which tiles fetch into the first-level cache.
/// A fetch is of as many lines as a unit of B has, spread evenly over the next `pace` bytes; or, where tiles
/// may have two panels, of a line of each of the two that come next, `apart` bytes from one another.
/// Elsewhere `apart` would be a register too many.
template <int Every>
struct flow {
  static constexpr int every = Every, lines = panel_width > 16 ? panel_width / 16 : 1;
  struct nothing {};
  std::byte const* at;
  std::int64_t pace;
  [[no_unique_address]] std::conditional_t<scarce_loads, std::int64_t, nothing> apart{};

  flow(std::byte const* at, std::int64_t pace) : at(at), pace(pace) {
    if constexpr (scarce_loads) apart = pace / lines;
  }
  FINEGRAIN_INLINE void fetch() {
    for (int i = 0; i < lines; ++i) {
      if constexpr (scarce_loads)
        __builtin_prefetch(at + i * apart, 0, 3);
      else
        __builtin_prefetch(at + i * (pace / lines), 0, 3);
    }
    at += pace;
  }
};
/// The same of a tile alone with few rows, which reads at the pace of memory: 12 kB further on into the
/// second-level cache, too.
struct far_flow : flow<1> {
  FINEGRAIN_INLINE void fetch() {
    for (int i = 0; i < lines; ++i) __builtin_prefetch(at + 12288 + i * (pace / lines), 0, 2);
    flow<1>::fetch();
  }
};
/// Memory that is read next as it stands, which tiles that take long steps fetch into the second-level
/// cache: `ways` parts of it side by side, a line of each in turn. In every page that is read from end to
/// end the machine fetches further by itself; one page alone leaves it less far ahead than memory is
/// away, and what waits for memory keeps tiles from what is in the caches.
struct streams {
  static constexpr int every = unit<format::bf16>::deep;  // units
  static constexpr std::int64_t line_bytes = line * 4;
  std::byte const* at;
  std::int64_t pace;  // bytes at every step
  int ways = 1;
  std::int64_t apart = 0;  // bytes from way to way
  std::int64_t due = 0;
  int way = 0;

  FINEGRAIN_INLINE void fetch() {
    for (due += pace; due >= line_bytes; due -= line_bytes) {
      __builtin_prefetch(at + way * apart, 0, 2);
      if (++way < ways) continue;
      way = 0;
      at += line_bytes;
    }
  }
};
/// Rows of numbers that a tile packs into panels beside its multiply-adds, some units of them at each
/// cache line of k that it passes: a panel's part of them, then the next panel's, `distance` on, and so
/// unit by unit. Between multiply-adds that takes less time than at once.
template <format F>
struct moving {
  float const* from = nullptr;
  bf16 const* rounded = nullptr;  // or these, where F takes them as they are
  float* to = nullptr;
  std::int64_t stride = 0, distance = 0;
  int panels = 1, panel = 0;
  std::int64_t left = 0;  // parts of units
  std::int64_t pace = 0;  // of them at a time

  FINEGRAIN_INLINE void some() { move(std::min(pace, left)); }
  FINEGRAIN_INLINE void rest() { move(left); }

 private:
  static constexpr int numbers = unit<F>::numbers;

  FINEGRAIN_INLINE void move(std::int64_t n) {
    left -= n;
    if constexpr (F == format::bf16)
      if (rounded) return move(n, rounded);
    move(n, from);
  }
  template <class N>
  FINEGRAIN_INLINE void move(std::int64_t n, N const*& at) {
    for (; n > 0; --n) {
      N const* rows[numbers];
      FINEGRAIN_UNROLL
      for (int i = 0; i < numbers; ++i) rows[i] = at + i * stride;
      vec units[vectors];
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) units[j] = unit_of<F>(rows, j * lanes, lanes);
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) store(to + j * lanes, units[j]);
      at += panel_width;
      to += distance;
      if (++panel < panels) continue;
      panel = 0;
      at += numbers * stride - panels * panel_width;
      to += panel_width - panels * distance;
    }
  }
};
/// What is fetched, and what is packed.
template <format F>
struct ahead_and_moving : ahead {
  moving<F> also;
};

/// Rows of sums that go past the caches beside the multiply-adds of several tiles, some at each cache line of
/// k that these pass: a core has room for few stores that wait for memory.
struct leaving {
  float const* from = nullptr;
  float* to = nullptr;
  std::int64_t from_stride = 0, to_stride = 0, columns = 0;  // of vectors
  std::int64_t left = 0, share = 0, pace = 0;                // vectors: all, a tile's, at a time
  std::int64_t column = 0, mine = 0;                         // what is left of this tile's

  /// Whether whole vectors can go there.
  static bool fits(matrix<float> to) {
    return can_stream(to.data) && to.stride % lanes == 0 && to.cols % lanes == 0;
  }

  /// Shares it among so many tiles, `units` deep, each of which begins.
  void spread(std::int64_t tiles, std::int64_t units) {
    share = ceil_div(left, tiles);
    pace = ceil_div(share, std::max<std::int64_t>(units / line, 1));
  }
  void begin() { mine = std::min(share, left); }
  void finish() { move(mine = left); }

  FINEGRAIN_INLINE void move(std::int64_t n) {
    left -= n;
    mine -= n;
    float const* p = from;  // not the members: a store could be to one of them
    float* q = to;
    std::int64_t c = column;
    std::int64_t const end = columns, p_step = from_stride - columns * lanes,
                       q_step = to_stride - columns * lanes;
    for (; n > 0; --n) {
      stream(q, load(p));
      p += lanes;
      q += lanes;
      if (++c < end) continue;
      c = 0;
      p += p_step;
      q += q_step;
    }
    from = p, to = q, column = c;
  }
};
/// A tile's part of what leaves.
struct leaving_part {
  leaving* all = nullptr;

  FINEGRAIN_INLINE void some() { all->move(std::min(all->pace, all->mine)); }
  FINEGRAIN_INLINE void rest() { all->move(all->mine); }
};
/// What leaves; nothing is fetched.
struct only_leaving {
  static constexpr int every = together;
  leaving_part also;
  FINEGRAIN_INLINE void fetch() {}
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
