// Frozen experts: the forward pass of experts whose weights are packed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "experts.hpp"
#include "panels.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Formats that experts can be frozen in.
template <format F>
concept Packable = F == format::f32 || F == format::bf16;

/// The weights of a group of experts.
template <format F>
struct frozen_experts {
  static constexpr finegrain::format number = F;
  simd::panels<F> gate_up;  // E x two (F, D)
  simd::panels<F> down;     // E x (D, F)

  constexpr frozen_experts() = default;
  constexpr frozen_experts(arena& memory, std::int64_t count, std::int64_t hidden,
                           std::int64_t width)
      : gate_up(memory, count, width, hidden, 2), down(memory, count, hidden, width) {}

  template <class W>
  void fill(cpu const& on, W const& w) const {
    gate_up.fill(on, simd::stacked(w.gate), simd::stacked(w.up));
    down.fill(on, simd::stacked(w.down));
  }
  std::int64_t hidden() const { return gate_up.cols; }
  std::int64_t width() const { return gate_up.rows; }
};

template <class W>
concept Frozen = std::is_base_of_v<frozen_experts<W::number>, W>;

namespace simd {

/// Numbers of room that each worker needs for rows of A.
constexpr std::int64_t left_size(std::int64_t hidden, std::int64_t width) {
  return left_rows<format::f32>::size(std::max(hidden, width));
}
inline constexpr int tasks_a_worker = 32;
/// Tasks that there can be for any routing.
constexpr std::int64_t most_frozen_tasks(std::int64_t slots, std::int64_t experts, int workers) {
  return slots / tile_rows + std::min(slots, experts) + tasks_a_worker * workers;
}

/// Cuts the experts' slots into blocks of at most `most` rows, and their `panels(group)` into ranges,
/// so that no task has much more than its share; biggest first. What a task computes does not depend
/// on how it was cut, and so neither on the number of workers.
template <class Panels>
std::int64_t list_frozen_tasks(std::span<expert_group const> groups, std::int64_t most, int workers,
                               Panels&& panels, expert_task* tasks) {
  std::int64_t total = 0, count = 0;
  for (auto const& g : groups) total += g.slots * panels(g);
  std::int64_t const share = ceil_div(std::max<std::int64_t>(total, 1), tasks_a_worker * workers);
  for (std::size_t i = 0; i < groups.size(); ++i)
    for (std::int64_t e = 0; e < groups[i].gate.count; ++e) {
      std::int64_t const first = groups[i].begin(e), n = groups[i].end(e) - first;
      std::int64_t const blocks = ceil_div(n, most), wide = panels(groups[i]);
      for (std::int64_t b = 0; b < blocks; ++b) {
        std::int64_t const top = n * b / blocks, rows = n * (b + 1) / blocks - top;
        std::int64_t const ranges = std::min(wide, ceil_div(rows * wide, share));
        for (std::int64_t r = 0; r < ranges; ++r)
          tasks[count++] = {static_cast<std::int32_t>(i),
                            static_cast<std::int32_t>(e),
                            first + top,
                            rows,
                            wide * r / ranges,
                            wide * (r + 1) / ranges};
      }
    }
  auto const cost = [](expert_task const& t) { return t.rows * (t.end - t.begin); };
  std::sort(tasks, tasks + count, [&](expert_task const& a, expert_task const& b) {
    if (cost(a) != cost(b)) return cost(a) > cost(b);
    if (a.group != b.group) return a.group < b.group;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  });
  return count;
}

}  // namespace simd

/// group.out from x (T, D), where weights(group) are the group's. `left` has left_size(...) numbers
/// for each worker. One loop makes hidden, the next makes out.
template <class Weights>
void frozen_experts_forward(cpu const& on, activation act, std::span<expert_group const> groups,
                            Weights const& weights, matrix<float const> x, expert_task* tasks,
                            float* left, std::int64_t left_size) {
  using namespace simd;
  using packed = std::remove_cvref_t<decltype(weights(groups[0]).gate_up)>;
  using rows_of_a = left_rows<packed::number>;
  int const workers = on.threads.workers();
  std::int64_t width = 0;
  for (auto const& g : groups) width = std::max(width, weights(g).width());

  std::int64_t count = list_frozen_tasks(
      groups, rows_of_a::most(x.cols), workers,
      [&](expert_group const& g) { return weights(g).gate_up.size(); }, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    auto const& w = weights(g);
    rows_of_a const a(left + worker * left_size, g.rows_of(x, task.first),
                      static_cast<int>(task.rows), x.cols);
    for (std::int64_t p = task.begin; p < task.end; ++p) {
      float const* const then = p + 1 < task.end ? w.gate_up.panel(task.expert, p + 1) : nullptr;
      std::int64_t const c = p * lanes, n = std::min<std::int64_t>(lanes, w.width() - c);
      a.multiply(w.gate_up.panel(task.expert, p), then, [&](int top, int rows, float const* sums) {
        for (int r = 0; r < rows; ++r)
          gated_forward(act, sums + r * panel_width, n, g.hidden.row(task.first + top + r) + c,
                        nullptr, nullptr);
      });
    }
  });

  count = list_frozen_tasks(
      groups, rows_of_a::most(width), workers,
      [&](expert_group const& g) { return weights(g).down.size(); }, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    auto const& w = weights(g);
    rows_of_a const a(left + worker * left_size, g.hidden.middle_rows(task.first, task.rows),
                      static_cast<int>(task.rows), w.width());
    for (std::int64_t p = task.begin; p < task.end; ++p) {
      float const* const then = p + 1 < task.end ? w.down.panel(task.expert, p + 1) : nullptr;
      std::int64_t const c = p * panel_width;
      std::int64_t const n = std::min<std::int64_t>(panel_width, w.hidden() - c);
      a.multiply(w.down.panel(task.expert, p), then, [&](int top, int rows, float const* sums) {
        for (int r = 0; r < rows; ++r)
          put(sums + r * panel_width, n, gradients::overwrite, g.out.row(task.first + top + r) + c);
      });
    }
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
