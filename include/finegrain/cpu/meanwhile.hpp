// meanwhile: what a tile does beside its multiply-adds: fetching, copying, storing.
//
// Either a flow, that goes on from tile to tile: the tile calls fetch() at every so many units of k. Or
// what one tile is given: it calls fetch(k) at each cache line of k that it passes, and, of what has an
// `also`, also.some() there and also.rest() at the end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/bounds.hpp"
#include "../base/matrix.hpp"
#include "room.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

template <class M>
concept Flow = requires(M& m) {
  m.every;
};

/// Numbers that will be read next, which a product fetches while it computes: at each cache line of
/// k that it passes, one line of every row, into the second-level cache.
struct ahead {
  float const* first = nullptr;
  std::int64_t stride = 0;  // from row to row
  std::int64_t rows = 0;
  std::int64_t length = 0;  // of k: behind it, nothing more

  FINEGRAIN_INLINE void fetch(std::int64_t k) const {
    if (k >= length) return;
    float const* p = first + k;
    for (std::int64_t i = 0; i < rows; ++i, p += stride) __builtin_prefetch(p, 0, 2);
  }
};
/// Memory that is read next as it stands, from end to end, which tiles fetch into the first-level
/// cache: `pace` bytes further at every so many units of k. One fetch between two units' multiply-adds
/// takes no time, where some at a time wait for one another.
template <int Every>
struct flow {
  static constexpr int every = Every;
  std::byte const* at;
  std::int64_t pace;

  FINEGRAIN_INLINE void fetch() {
    constexpr int lines = panel_width > 16 ? panel_width / 16 : 1;  // of a unit of B
    for (int i = 0; i < lines; ++i) __builtin_prefetch(at + i * (pace / lines), 0, 3);
    at += pace;
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
/// Rows of numbers that a tile copies into panels beside its multiply-adds, some at each cache line of
/// k that it passes: a panel's part of a row, then the next panel's, `distance` on, and so row by row.
/// Between multiply-adds that takes less time than at once.
struct moving {
  float const* from = nullptr;
  float* to = nullptr;
  std::int64_t stride = 0, distance = 0;
  int panels = 1, panel = 0;
  std::int64_t left = 0;  // parts of rows
  std::int64_t pace = 0;  // of them at a time

  FINEGRAIN_INLINE void some() { move(std::min(pace, left)); }
  FINEGRAIN_INLINE void rest() { move(left); }

 private:
  FINEGRAIN_INLINE void move(std::int64_t n) {
    left -= n;
    for (; n > 0; --n) {
      vec const a = load(from), b = load(from + lanes);
      store(to, a);
      store(to + lanes, b);
      from += panel_width;
      to += distance;
      if (++panel < panels) continue;
      panel = 0;
      from += stride - panels * panel_width;
      to += panel_width - panels * distance;
    }
  }
};
/// What is fetched, and what is copied.
struct ahead_and_moving : ahead {
  moving also;
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
/// What is fetched, and what leaves.
struct ahead_and_leaving : ahead {
  leaving_part also;
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
