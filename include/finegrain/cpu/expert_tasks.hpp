// Expert tasks: the slots of experts, cut into pieces of work for threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "../plan/plan.hpp"
#include "codec.hpp"
#include "executor.hpp"
#include "left.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Experts of one shape and their slots: expert e takes the slots [offsets[e], offsets[e + 1]);
/// a slot is a row of x. Without offsets one expert takes all rows as they stand.
struct expert_group {
  stack<float const> gate = {}, up = {};  // E x (F, D)
  stack<float const> down = {};           // E x (D, F)
  std::int64_t slots = 0;
  std::int64_t const* offsets = nullptr;  // (E + 1)
  std::int32_t const* token = nullptr;    // (slots) row of x

  matrix<float> gate_up = {};  // (slots, kept_units(F)): gate's output, then up's, for backward
  matrix<float> hidden = {};   // (slots, F); in backward times the weight
  matrix<float> out = {};      // (slots, D): y, or the slot's share of dx

  stack<float> dgate = {}, dup = {}, ddown = {};
  float const* weight = nullptr;  // (slots) with which out went into y; null where it is 1
  matrix<float> dgate_up = {};    // (slots, 2 F)
  matrix<float> dweight = {};     // (slots, partial sums); empty if nobody asks

  std::int64_t width() const { return gate.rows; }
  std::int64_t begin(std::int64_t e) const { return offsets ? offsets[e] : 0; }
  std::int64_t end(std::int64_t e) const { return offsets ? offsets[e + 1] : slots; }
  simd::row_list rows_of(matrix<float const> m, std::int64_t first) const {
    return token ? simd::row_list(m, token + first)
                 : simd::row_list(m.middle_rows(first, slots - first));
  }
};

enum class expert_weight : std::int32_t { gate, up, down };
/// A block of one expert's slots and a range of panels; or all its slots, and a range of outputs of the
/// weight whose gradient they make.
struct expert_task {
  std::int32_t group, expert;
  std::int64_t first, rows;  // slots
  std::int64_t begin, end;   // panels; or outputs
  std::int64_t place = 0;    // tasks run in its order
  expert_weight weight = {};
};

/// Units in which a slot's gate and up, `width` numbers each, are kept for backward.
constexpr std::int64_t kept_units(std::int64_t width, format kept) {
  return 2 * ceil_div(width, 32 / bits(kept));
}

/// The least and the most of of<F>() of all formats that products are in.
template <class Of>
constexpr auto of_products(Of const& of) {
  struct bounds {
    std::int64_t least, most;
  };
  auto const all = {of.template operator()<format::f32>(),
                    of.template operator()<format::bf16>(),
                    of.template operator()<simd::codec<format::fp8>::products>(),
                    of.template operator()<simd::codec<format::int8>::products>(),
                    of.template operator()<simd::codec<format::int8_block>::products>(),
                    of.template operator()<simd::codec<format::int4>::products>()};
  return bounds{std::min(all), std::max(all)};
}

/// Memory of each worker while experts run: rows of A, an expert's hidden rows and a block of B
/// forward; sums, or all of a weight gradient's B, backward.
struct expert_room {
  std::int64_t left = 0, hidden = 0, sums = 0;  // numbers
  matrix<float> rounded = {};                   // (T, size of a rounded row)
  float* data = nullptr;
  static_assert(simd::depth >= simd::block_rows,
                "sums must hold block_rows rows of D or F sums, too");

  constexpr expert_room() = default;
  constexpr expert_room(arena& memory, extent e, std::int64_t D, std::int64_t F)
      : left(rows_size(e.tokens, std::max(D, F))),
        hidden(rows_size(e.tokens, F)),
        sums(e.training ? simd::depth * (std::max(D, F) + simd::panel_width) : 0),
        rounded(memory.matrix<float>(e.training ? 0 : e.tokens, rounded_size(D))),
        data(memory.take<float>(e.workers * size())) {}

  constexpr std::int64_t size() const { return std::max(left + hidden + simd::right_room, sums); }
  static constexpr std::int64_t rows_size(std::int64_t tokens, std::int64_t K) {
    auto const all = of_products([&]<format F>() { return simd::left_rows<F>::size(tokens, K); });
    return ceil_div(all.most, simd::line) * simd::line;  // what follows begins with a cache line
  }
  static constexpr std::int64_t rounded_size(std::int64_t K) {
    return of_products([&]<format F>() { return simd::rounded_rows<F>::size(K); }).most;
  }
  float* left_of(int worker) const { return data + worker * size(); }
  float* hidden_of(int worker) const { return left_of(worker) + left; }
  float* right_of(int worker) const { return hidden_of(worker) + hidden; }
  float* sums_of(int worker) const { return data + worker * size(); }
};

namespace simd {

inline constexpr std::int64_t half_panel = panel_width / 2;
inline constexpr int tasks_a_worker = 16;

/// Partial sums that a weight's gradient comes in.
constexpr std::int64_t weight_parts(std::int64_t width) {
  return ceil_div(ceil_div(width, panel_width), block_panels);
}
/// Tasks that there can be at a time, for any routing.
constexpr std::int64_t most_tasks(std::int64_t slots, std::int64_t experts, int workers) {
  constexpr std::int64_t fewest =
      of_products([&]<format F>() { return std::int64_t{strip_rows<F>}; }).least;
  return slots / fewest + 3 * experts + tasks_a_worker * std::int64_t{workers};
}

/// Puts tasks without a place in order: a group's from the biggest to the smallest, and the groups
/// spread evenly among one another. Shared experts compute much with few weights, routed ones little
/// with many: side by side they use the cores and the memory.
FINEGRAIN_LAZY inline void order_tasks(expert_task* tasks, std::int64_t count) {
  auto const cost = [](expert_task const& t) { return t.rows * (t.end - t.begin); };
  auto const before = [&](expert_task const& a, expert_task const& b) {
    if (a.place != b.place) return a.place < b.place;
    if (a.group != b.group) return a.group < b.group;
    if (cost(a) != cost(b)) return cost(a) > cost(b);
    if (a.expert != b.expert) return a.expert < b.expert;
    if (a.weight != b.weight) return a.weight < b.weight;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  };
  std::sort(tasks, tasks + count, before);
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && tasks[end].group == tasks[begin].group) ++end;
    for (std::int64_t i = begin; i < end; ++i)
      tasks[i].place = ((2 * (i - begin) + 1) << 32) / (end - begin);
  }
  std::sort(tasks, tasks + count, before);
}

/// What one task may cost at most, of `total`.
constexpr std::int64_t fair_share(std::int64_t total, int workers) {
  return ceil_div(std::max<std::int64_t>(total, 1), tasks_a_worker * std::int64_t{workers});
}

/// Panels of an expert's hidden pairs, and of its outputs.
inline std::int64_t inner_panels(expert_group const& g) { return ceil_div(g.width(), half_panel); }
inline std::int64_t outer_panels(expert_group const& g) {
  return ceil_div(g.out.cols, panel_width);
}

/// Cuts the experts' slots into blocks of at most `most` rows. The `panels(group)` of each are cut, at
/// multiples of `step`, so that no task has much more than its share. What a task computes does not
/// depend on how it was cut, and so neither on the number of workers. `cut_by` is the share by which inner
/// panels were cut before: with it, only blocks that were cut then are taken, and are cut into half as many
/// pieces, since each piece packs its rows again. Returns how many tasks there are.
FINEGRAIN_LAZY inline std::int64_t list_tasks(std::span<expert_group const> groups,
                                              std::int64_t most, int workers, std::int64_t step,
                                              std::int64_t (*panels)(expert_group const&),
                                              expert_task* tasks, std::int64_t cut_by = 0) {
  auto const each_block = [&](auto&& f) {
    for (std::size_t i = 0; i < groups.size(); ++i)
      for (std::int64_t e = 0; e < groups[i].gate.count; ++e) {
        std::int64_t const first = groups[i].begin(e), n = groups[i].end(e) - first;
        std::int64_t const blocks = ceil_div(n, most);
        for (std::int64_t b = 0; b < blocks; ++b) {
          std::int64_t const top = n * b / blocks, rows = n * (b + 1) / blocks - top;
          std::int64_t const inner = inner_panels(groups[i]);
          if (cut_by == 0 || (inner > step && rows * inner > cut_by)) f(i, e, first + top, rows);
        }
      }
  };
  std::int64_t total = 0, count = 0;
  each_block([&](std::size_t i, std::int64_t, std::int64_t, std::int64_t rows) {
    total += rows * panels(groups[i]);
  });
  std::int64_t const share = fair_share(total, workers) * (cut_by > 0 ? 2 : 1);
  each_block([&](std::size_t i, std::int64_t e, std::int64_t first, std::int64_t rows) {
    std::int64_t const all = panels(groups[i]), steps = ceil_div(all, step);
    std::int64_t const ranges = std::min(steps, ceil_div(rows * all, share));
    for (std::int64_t r = 0; r < ranges; ++r)
      tasks[count++] = {.group = static_cast<std::int32_t>(i),
                        .expert = static_cast<std::int32_t>(e),
                        .first = first,
                        .rows = rows,
                        .begin = steps * r / ranges * step,
                        .end = std::min(all, steps * (r + 1) / ranges * step)};
  });
  order_tasks(tasks, count);
  return count;
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
