// Experts: down(act(gate(x)) * up(x)), many at a time, each on its own rows of x.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "linear.hpp"

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

  matrix<float> gate_up = {};  // (slots, 2 F): gate's output, then up's; kept for backward
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

/// A block of one expert's slots and a range of columns (panels, or rows of weight gradients).
struct expert_task {
  std::int32_t group, expert;
  std::int64_t first, rows;
  std::int64_t begin, end;
};

namespace simd {

inline constexpr std::int64_t half_panel = panel_width / 2;

/// Partial sums that a weight's gradient comes in.
constexpr std::int64_t weight_parts(std::int64_t width) {
  return ceil_div(ceil_div(width, panel_width), block_panels);
}
/// Tasks that there can be for any routing.
constexpr std::int64_t most_tasks(std::int64_t slots, std::int64_t experts, std::int64_t hidden,
                                  std::int64_t width) {
  std::int64_t const blocks = slots / block_rows + std::min(slots, experts);
  std::int64_t const columns = std::max(ceil_div(width, half_panel), ceil_div(hidden, panel_width));
  return std::max(blocks * ceil_div(columns, block_panels),
                  experts * (2 * ceil_div(width, block_rows) + ceil_div(hidden, block_rows)));
}

/// Cuts every group's experts into blocks of slots, and `columns(group)` panels into ranges;
/// biggest blocks first. Returns how many.
template <class Columns>
std::int64_t list_tasks(std::span<expert_group const> groups, Columns&& columns,
                        expert_task* tasks) {
  std::int64_t count = 0;
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (std::int64_t e = 0; e < groups[g].gate.count; ++e) {
      std::int64_t const first = groups[g].begin(e), n = groups[g].end(e) - first;
      std::int64_t const blocks = ceil_div(n, block_rows), panels = columns(groups[g]);
      for (std::int64_t b = 0; b < blocks; ++b)
        for (std::int64_t p = 0; p < panels; p += block_panels)
          tasks[count++] = {static_cast<std::int32_t>(g),
                            static_cast<std::int32_t>(e),
                            first + n * b / blocks,
                            n * (b + 1) / blocks - n * b / blocks,
                            p,
                            std::min<std::int64_t>(panels, p + block_panels)};
    }
  std::sort(tasks, tasks + count, [](expert_task const& a, expert_task const& b) {
    if (a.rows != b.rows) return a.rows > b.rows;
    if (a.group != b.group) return a.group < b.group;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  });
  return count;
}

/// The argument of the sigmoid in act(z) = z sigmoid(argument(z)), and its derivative: SiLU's is z
/// itself; GELU in its tanh form is z sigmoid(2 a (z + b z^3)).
FINEGRAIN_INLINE vec argument(activation act, vec z) {
  if (act == activation::swiglu) return z;
  return 1.5957691216f * z * (1.0f + 0.044715f * z * z);
}
FINEGRAIN_INLINE vec argument_derivative(activation act, vec z) {
  if (act == activation::swiglu) return vec{} + 1.0f;
  return 1.5957691216f * (1.0f + 0.134145f * z * z);
}

FINEGRAIN_INLINE vec load_up_to(float const* p, std::int64_t n) {
  return n >= lanes ? load(p) : load_first(p, n);
}
FINEGRAIN_INLINE void store_up_to(float* p, vec v, std::int64_t n) {
  n >= lanes ? store(p, v) : store_first(p, v, n);
}

/// hidden = act(gate) * up for n columns; gate and up as a product left them; kept where asked.
inline void gated_forward(activation act, float const* sums, std::int64_t n, float* hidden,
                          float* gate, float* up) {
  for (std::int64_t c = 0; c < n; c += lanes) {
    vec const g = load(sums + c), u = load(sums + half_panel + c);
    store_up_to(hidden + c, g * sigmoid(argument(act, g)) * u, n - c);
    if (gate) {
      store_up_to(gate + c, g, n - c);
      store_up_to(up + c, u, n - c);
    }
  }
}
/// From dh (n columns), the gradient before the slot's weight w: dgate, dup, hidden * w. Returns
/// the sum of dh * hidden, lane by lane: the weight's gradient.
inline vec gated_backward(activation act, float const* dh, std::int64_t n, float w,
                          float const* gate, float const* up, float* dgate, float* dup,
                          float* hidden) {
  vec dot{};
  for (std::int64_t c = 0; c < n; c += lanes) {
    vec const d = load(dh + c), g = load_up_to(gate + c, n - c), u = load_up_to(up + c, n - c);
    vec const s = sigmoid(argument(act, g)), a = g * s;
    vec const slope = s + a * (1.0f - s) * argument_derivative(act, g);
    dot += d * a * u;
    store_up_to(dgate + c, w * d * u * slope, n - c);
    store_up_to(dup + c, w * d * a, n - c);
    store_up_to(hidden + c, w * a * u, n - c);
  }
  return dot;
}

}  // namespace simd

/// group.out from x (T, D): one loop makes hidden, the next makes out.
inline void experts_forward(cpu const& on, activation act, std::span<expert_group const> groups,
                            matrix<float const> x, expert_task* tasks) {
  using namespace simd;
  std::int64_t count = list_tasks(
      groups, [](expert_group const& g) { return transposed(g.gate[0], g.up[0]).panels(); }, tasks);
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    transposed const b(g.gate[task.expert], g.up[task.expert]);
    int const rows = static_cast<int>(task.rows);
    room room;
    multiply_rows(g.rows_of(x, task.first), rows, x.cols, b, task.begin, task.end, room);
    for (int r = 0; r < rows; ++r)
      for (std::int64_t p = task.begin; p < task.end; ++p) {
        std::int64_t const c = p * half_panel, n = std::min(half_panel, g.width() - c);
        float* const kept = g.gate_up.rows > 0 ? g.gate_up.row(task.first + r) + c : nullptr;
        gated_forward(act, room.sums + ((p - task.begin) * rows + r) * panel_width, n,
                      g.hidden.row(task.first + r) + c, kept, kept ? kept + g.width() : nullptr);
      }
  });

  count = list_tasks(
      groups, [](expert_group const& g) { return transposed(g.down[0]).panels(); }, tasks);
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    multiply_block(g.hidden.middle_rows(task.first, task.rows), g.width(),
                   transposed(g.down[task.expert]), task.begin, task.end,
                   g.out.middle_rows(task.first, task.rows), gradients::overwrite);
  });
}

namespace simd {

/// dgate_up, weighted hidden and dweight from dy (T, D).
inline void backward_through_down(cpu const& on, activation act,
                                  std::span<expert_group const> groups, matrix<float const> dy,
                                  expert_task* tasks) {
  std::int64_t const count = list_tasks(
      groups,
      [](expert_group const& g) {
        return straight{{}, g.width()}.panels();
      },
      tasks);
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    straight const b{g.down[task.expert], g.width()};
    int const rows = static_cast<int>(task.rows);
    room room;
    multiply(g.rows_of(dy, task.first), rows, dy.cols, b, task.begin, task.end, room);
    vec dots[block_rows] = {};
    for (int r = 0; r < rows; ++r)
      for (std::int64_t p = task.begin; p < task.end; ++p) {
        std::int64_t const s = task.first + r, c = p * panel_width;
        std::int64_t const n = std::min<std::int64_t>(panel_width, g.width() - c);
        float const* const kept = g.gate_up.row(s) + c;
        float* const d = g.dgate_up.row(s) + c;
        dots[r] += gated_backward(act, room.sums + ((p - task.begin) * rows + r) * panel_width, n,
                                  g.weight ? g.weight[s] : 1.0f, kept, kept + g.width(), d,
                                  d + g.width(), g.hidden.row(s) + c);
      }
    if (g.dweight.rows > 0)
      for (std::int64_t r = 0; r < task.rows; ++r)
        g.dweight(task.first + r, task.begin / block_panels) = total(dots[r]);
  });
}

/// Weight gradients, block_rows rows a task: gate's, up's, down's; most slots first.
inline void weight_gradients(cpu const& on, std::span<expert_group const> groups,
                             matrix<float const> x, matrix<float const> dy, gradients mode,
                             expert_task* tasks) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    expert_group const& g = groups[i];
    for (std::int64_t e = 0; e < g.gate.count; ++e)
      for (std::int64_t part = 0; part < 3; ++part) {
        std::int64_t const outputs = part < 2 ? g.width() : x.cols;
        for (std::int64_t o = 0; o < outputs; o += block_rows)
          tasks[count++] = {static_cast<std::int32_t>(i),
                            static_cast<std::int32_t>(e),
                            part,
                            g.end(e) - g.begin(e),
                            o,
                            std::min<std::int64_t>(outputs, o + block_rows)};
      }
  }
  std::sort(tasks, tasks + count, [](expert_task const& a, expert_task const& b) {
    if (a.rows != b.rows) return a.rows > b.rows;
    if (a.group != b.group) return a.group < b.group;
    if (a.expert != b.expert) return a.expert < b.expert;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  });
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    std::int64_t const slot = g.begin(task.expert), o = task.begin, n = task.end - o;
    if (task.first < 2) {
      matrix<float> const dw = (task.first == 0 ? g.dgate : g.dup)[task.expert];
      outer_product(g.dgate_up.middle_rows(slot, task.rows), task.first * g.width() + o,
                    g.rows_of(x, slot), task.rows, dw.middle_rows(o, n), mode);
    } else {
      outer_product(g.rows_of(dy, slot), o, g.hidden.middle_rows(slot, task.rows), task.rows,
                    g.ddown[task.expert].middle_rows(o, n), mode);
    }
  });
}

}  // namespace simd

/// Weight gradients, group.dweight, and the slots' shares of dx in group.out, from dy (T, D).
inline void experts_backward(cpu const& on, activation act, std::span<expert_group const> groups,
                             matrix<float const> x, matrix<float const> dy, gradients mode,
                             expert_task* tasks) {
  using namespace simd;
  backward_through_down(on, act, groups, dy, tasks);
  std::int64_t const count = list_tasks(
      groups,
      [](expert_group const& g) {
        return straight{{}, g.gate.cols}.panels();
      },
      tasks);
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    straight const b{g.gate[task.expert], g.gate.cols, g.up[task.expert], g.width()};
    multiply_block(g.dgate_up.middle_rows(task.first, task.rows), 2 * g.width(), b, task.begin,
                   task.end, g.out.middle_rows(task.first, task.rows), gradients::overwrite);
  });
  weight_gradients(on, groups, x, dy, mode, tasks);
}

namespace simd {
/// One matrix as a stack of one, or of none if it is empty.
template <class T>
stack<T> stacked(matrix<T> m) {
  return {m.data, m.rows * m.cols > 0 ? 1 : 0, m.rows, m.cols};
}
template <class T>
stack<T> stacked(stack<T> s) {
  return s;
}
}  // namespace simd

}  // namespace FINEGRAIN_ISA

template <int D, int F, activation Act>
struct plan<cpu, mlp<D, F, Act>> {
  struct saved {
    matrix<float> gate_up;  // (T, 2 F), in training
    constexpr saved(arena& memory, extent e)
        : gate_up(memory.matrix<float>(e.training ? e.tokens : 0, 2 * F)) {}
  };
  struct scratch {
    expert_task* tasks;
    matrix<float> hidden, dgate_up;  // (T, F), (T, 2 F)
    constexpr scratch(arena& memory, extent e)
        : tasks(memory.take<expert_task>(simd::most_tasks(e.tokens, 1, D, F))),
          hidden(memory.matrix<float>(e.tokens, F)),
          dgate_up(memory.matrix<float>(e.training ? e.tokens : 0, 2 * F)) {}
  };

  template <class W>
  static void forward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                      matrix<float> y) {
    scratch const t(p.scratch, p.extent);
    expert_group const g = group(w, s, t, x.rows, y);
    experts_forward(p.on, Act, {&g, 1}, x, t.tasks);
  }
  template <class W, class V>
  static void backward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                       matrix<float const> dy, V const& dw, matrix<float> dx) {
    scratch const t(p.scratch, p.extent);
    expert_group g = group(w, s, t, x.rows, dx);
    g.dgate = simd::stacked(dw.gate);
    g.dup = simd::stacked(dw.up);
    g.ddown = simd::stacked(dw.down);
    g.dgate_up = t.dgate_up;
    experts_backward(p.on, Act, {&g, 1}, x, dy, p.gradients, t.tasks);
  }

 private:
  template <class W>
  static expert_group group(W const& w, saved const& s, scratch const& t, std::int64_t tokens,
                            matrix<float> out) {
    return {.gate = simd::stacked(w.gate),
            .up = simd::stacked(w.up),
            .down = simd::stacked(w.down),
            .slots = tokens,
            .gate_up = s.gate_up,
            .hidden = t.hidden,
            .out = out};
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
