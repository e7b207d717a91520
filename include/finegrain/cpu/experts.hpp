// Experts: down(act(gate(x)) * up(x)), many at a time, each on its own rows of x.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "left.hpp"
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

/// A block of one expert's slots and a range of panels; or, of weight gradients, of outputs.
struct expert_task {
  std::int32_t group, expert;
  std::int64_t first, rows;
  std::int64_t begin, end;
  std::int64_t place;  // tasks run in its order
};

/// Memory of each worker while experts run: rows of A, an expert's hidden rows and a block of B
/// forward; sums backward.
struct expert_room {
  std::int64_t left = 0, hidden = 0, sums = 0;  // numbers
  float* data = nullptr;

  constexpr expert_room() = default;
  constexpr expert_room(arena& memory, extent e, std::int64_t D, std::int64_t F)
      : left(simd::left_rows<format::f32>::size(std::max(D, F))),
        hidden(simd::left_rows<format::f32>::size(F)),
        sums(e.training ? simd::block_rows * (std::max(D, F) + simd::panel_width) : 0),
        data(memory.take<float>(e.workers * size())) {}

  constexpr std::int64_t size() const { return std::max(left + hidden + simd::right_room, sums); }
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
  return slots / tile_rows + 3 * experts + tasks_a_worker * std::int64_t{workers};
}

/// Puts tasks in order: a group's from the biggest to the smallest, and the groups spread evenly among
/// one another. Shared experts compute much with few weights, routed ones little with many: side by
/// side they use the cores and the memory.
inline void order_tasks(expert_task* tasks, std::int64_t count) {
  auto const cost = [](expert_task const& t) { return t.rows * (t.end - t.begin); };
  std::sort(tasks, tasks + count, [&](expert_task const& a, expert_task const& b) {
    if (a.group != b.group) return a.group < b.group;
    if (cost(a) != cost(b)) return cost(a) > cost(b);
    if (a.expert != b.expert) return a.expert < b.expert;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  });
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && tasks[end].group == tasks[begin].group) ++end;
    for (std::int64_t i = begin; i < end; ++i)
      tasks[i].place = ((2 * (i - begin) + 1) << 32) / (end - begin);
  }
  std::sort(tasks, tasks + count, [](expert_task const& a, expert_task const& b) {
    return a.place != b.place ? a.place < b.place : a.group < b.group;
  });
}

/// What one task may cost at most, of `total`.
constexpr std::int64_t fair_share(std::int64_t total, int workers) {
  return ceil_div(std::max<std::int64_t>(total, 1), tasks_a_worker * std::int64_t{workers});
}

/// Cuts the experts' slots into blocks of at most `most` rows, and takes those that `wanted(group,
/// rows)` is true for. The `panels(group)` of each are cut, at multiples of `step`, so that no task
/// has much more than its share. What a task computes does not depend on how it was cut, and so
/// neither on the number of workers. Returns how many there are.
template <class Panels, class Wanted>
std::int64_t list_tasks(std::span<expert_group const> groups, std::int64_t most, int workers,
                        std::int64_t step, Panels&& panels, Wanted&& wanted, expert_task* tasks) {
  auto const each_block = [&](auto&& f) {
    for (std::size_t i = 0; i < groups.size(); ++i)
      for (std::int64_t e = 0; e < groups[i].gate.count; ++e) {
        std::int64_t const first = groups[i].begin(e), n = groups[i].end(e) - first;
        std::int64_t const blocks = ceil_div(n, most);
        for (std::int64_t b = 0; b < blocks; ++b) {
          std::int64_t const top = n * b / blocks, rows = n * (b + 1) / blocks - top;
          if (wanted(groups[i], rows)) f(i, e, first + top, rows);
        }
      }
  };
  std::int64_t total = 0, count = 0;
  each_block([&](std::size_t i, std::int64_t, std::int64_t, std::int64_t rows) {
    total += rows * panels(groups[i]);
  });
  std::int64_t const share = fair_share(total, workers);
  each_block([&](std::size_t i, std::int64_t e, std::int64_t first, std::int64_t rows) {
    std::int64_t const all = panels(groups[i]), steps = ceil_div(all, step);
    std::int64_t const ranges = std::min(steps, ceil_div(rows * all, share));
    for (std::int64_t r = 0; r < ranges; ++r)
      tasks[count++] = {static_cast<std::int32_t>(i),
                        static_cast<std::int32_t>(e),
                        first,
                        rows,
                        steps * r / ranges * step,
                        std::min(all, steps * (r + 1) / ranges * step),
                        0};
  });
  order_tasks(tasks, count);
  return count;
}
inline bool all_blocks(expert_group const&, std::int64_t) { return true; }

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

/// act(gate) * up for a vector's columns, the first n of which count; gate and up as a product left
/// them; kept where asked.
FINEGRAIN_INLINE vec gated_forward(activation act, float const* sums, std::int64_t n, float* gate,
                                   float* up) {
  vec const g = load(sums), u = load(sums + lanes);
  if (gate) {
    store_up_to(gate, g, n);
    store_up_to(up, u, n);
  }
  return g * sigmoid(argument(act, g)) * u;
}
static_assert(half_panel == lanes);
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

namespace simd {

/// Experts whose weights are as they are stored; products of numbers in format F.
template <format F>
struct stored_experts {
  static constexpr format number = F;

  static std::int64_t hidden(expert_group const& g) { return g.gate.cols; }
  static auto gate_up(expert_group const& g, std::int64_t e, float* room) {
    return packing<F>{{g.gate[e], g.up[e]}, g.gate.cols, room};
  }
  static auto down(expert_group const& g, std::int64_t e, float* room) {
    return packing<F>{g.down[e], g.down.cols, room};
  }
};

}  // namespace simd

/// group.out from x (T, D). `weights` hands out each expert's panels. A task takes a block of an
/// expert's rows through the whole expert, and what lies between stays in its cache. Where that would
/// be more than a task's share, one loop makes hidden and the next makes out.
template <class Weights>
void experts_forward(cpu const& on, activation act, std::span<expert_group const> groups,
                     Weights const& weights, matrix<float const> x, expert_task* tasks,
                     expert_room const& room) {
  using namespace simd;
  using left = left_rows<Weights::number>;
  int const workers = on.threads.workers();
  std::int64_t most = left::most(x.cols), total = 0;
  auto const inner = [](expert_group const& g) { return ceil_div(g.width(), half_panel); };
  auto const outer = [](expert_group const& g) { return ceil_div(g.out.cols, panel_width); };
  for (expert_group const& g : groups) {
    most = std::min<std::int64_t>(most, left::most(g.width()));
    total += g.slots * inner(g);
  }
  std::int64_t const share = fair_share(total, workers);

  auto const make_out = [&](expert_group const& g, expert_task const& task, left const& hidden,
                            std::int64_t begin, std::int64_t end, int worker) {
    auto const b = weights.down(g, task.expert, room.right_of(worker));
    hidden.multiply(b, begin, end, [&](std::int64_t p, float const* sums) {
      std::int64_t const c = p * panel_width;
      std::int64_t const n = std::min<std::int64_t>(panel_width, g.out.cols - c);
      for (std::int64_t r = 0; r < task.rows; ++r)
        put_past(sums + r * panel_width, n, gradients::overwrite, g.out.row(task.first + r) + c);
    });
    fence();
  };

  std::int64_t count = list_tasks(groups, most, workers, 1, inner, all_blocks, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    int const rows = static_cast<int>(task.rows);
    bool const whole = task.end - task.begin == inner(g);
    left const a(room.left_of(worker), g.rows_of(x, task.first), rows, x.cols);
    left const hidden(room.hidden_of(worker), rows, g.width());
    auto const b = weights.gate_up(g, task.expert, room.right_of(worker));
    a.multiply(b, task.begin, task.end, [&](std::int64_t p, float const* sums) {
      std::int64_t const c = p * half_panel, n = std::min(half_panel, g.width() - c);
      for (int r = 0; r < rows; ++r) {
        std::int64_t const slot = task.first + r;
        float* const kept = g.gate_up.rows > 0 ? g.gate_up.row(slot) + c : nullptr;
        vec const h =
            gated_forward(act, sums + r * panel_width, n, kept, kept ? kept + g.width() : nullptr);
        if (whole)
          hidden.store(r, c, h);
        else
          store_up_to(g.hidden.row(slot) + c, h, n);
      }
    });
    if (whole) make_out(g, task, hidden, 0, outer(g), worker);
  });

  auto const in_parts = [&](expert_group const& g, std::int64_t rows) {
    return inner(g) > 1 && rows * inner(g) > share;
  };
  count = list_tasks(groups, most, workers, 1, outer, in_parts, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    left const hidden(room.left_of(worker), g.hidden.middle_rows(task.first, task.rows),
                      static_cast<int>(task.rows), g.width());
    make_out(g, task, hidden, task.begin, task.end, worker);
  });
}

namespace simd {

/// dgate_up, weighted hidden and dweight from dy (T, D).
template <format F>
void backward_through_down(cpu const& on, activation act, std::span<expert_group const> groups,
                           matrix<float const> dy, expert_task* tasks, expert_room const& room) {
  auto const panels = [](expert_group const& g) { return ceil_div(g.width(), panel_width); };
  std::int64_t const count =
      list_tasks(groups, block_rows, on.threads.workers(), block_panels, panels, all_blocks, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    int const rows = static_cast<int>(task.rows);
    straight const b{g.down[task.expert], g.width()};
    vec dots[block_rows] = {};
    float* const all = room.sums_of(worker);
    simd::room own;
    multiply<F>(g.rows_of(dy, task.first), rows, dy.cols, b, task.begin, task.end, own, all);
    for (std::int64_t p = task.begin; p < task.end; ++p) {
      float const* const sums = all + (p - task.begin) * rows * panel_width;
      std::int64_t const c = p * panel_width;
      std::int64_t const n = std::min<std::int64_t>(panel_width, g.width() - c);
      bool const last = (p + 1) % block_panels == 0 || p + 1 == task.end;
      for (int r = 0; r < rows; ++r) {
        std::int64_t const s = task.first + r;
        float const* const kept = g.gate_up.row(s) + c;
        float* const d = g.dgate_up.row(s) + c;
        dots[r] += gated_backward(act, sums + r * panel_width, n, g.weight ? g.weight[s] : 1.0f,
                                  kept, kept + g.width(), d, d + g.width(), g.hidden.row(s) + c);
        if (!last) continue;
        if (g.dweight.rows > 0) g.dweight(s, p / block_panels) = total(dots[r]);
        dots[r] = vec{};
      }
    }
  });
}

/// The slots' shares of dx in group.out, from dgate_up.
template <format F>
void backward_through_gate_up(cpu const& on, std::span<expert_group const> groups,
                              expert_task* tasks, expert_room const& room) {
  auto const panels = [](expert_group const& g) { return ceil_div(g.gate.cols, panel_width); };
  std::int64_t const count =
      list_tasks(groups, block_rows, on.threads.workers(), block_panels, panels, all_blocks, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    int const rows = static_cast<int>(task.rows);
    straight const b{g.gate[task.expert], g.gate.cols, g.up[task.expert], g.width()};
    float* const sums = room.sums_of(worker);
    simd::room own;
    multiply<F>(g.dgate_up.middle_rows(task.first, rows), rows, 2 * g.width(), b, task.begin,
                task.end, own, sums);
    for (std::int64_t p = task.begin; p < task.end; ++p) {
      std::int64_t const c = p * panel_width;
      std::int64_t const n = std::min<std::int64_t>(panel_width, g.gate.cols - c);
      for (std::int64_t r = 0; r < rows; ++r)
        put_past(sums + ((p - task.begin) * rows + r) * panel_width, n, gradients::overwrite,
                 g.out.row(task.first + r) + c);
    }
    fence();
  });
}

/// Weight gradients: a task makes some outputs of an expert's gate, up or down.
template <format F>
void weight_gradients(cpu const& on, std::span<expert_group const> groups, matrix<float const> x,
                      matrix<float const> dy, gradients mode, expert_task* tasks) {
  std::int64_t total = 0, count = 0;
  for (expert_group const& g : groups) total += 3 * g.slots * g.width();
  std::int64_t const share = fair_share(total * x.cols, on.threads.workers());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    expert_group const& g = groups[i];
    for (std::int64_t e = 0; e < g.gate.count; ++e)
      for (std::int64_t part = 0; part < 3; ++part) {
        std::int64_t const outputs = part < 2 ? g.width() : x.cols, n = g.end(e) - g.begin(e);
        std::int64_t const blocks = ceil_div(outputs, block_rows);
        std::int64_t const ranges =
            std::clamp<std::int64_t>(ceil_div(n * g.width() * x.cols, share), 1, blocks);
        for (std::int64_t r = 0; r < ranges; ++r)
          tasks[count++] = {static_cast<std::int32_t>(i),
                            static_cast<std::int32_t>(e),
                            part,
                            n,
                            blocks * r / ranges * block_rows,
                            std::min(outputs, blocks * (r + 1) / ranges * block_rows),
                            0};
      }
  }
  order_tasks(tasks, count);
  on.threads(count, [&](std::int64_t i, int) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    std::int64_t const slot = g.begin(task.expert), o = task.begin, n = task.end - o;
    if (task.first < 2) {
      matrix<float> const dw = (task.first == 0 ? g.dgate : g.dup)[task.expert];
      outer_product<F>(g.dgate_up.middle_rows(slot, task.rows), task.first * g.width() + o,
                       g.rows_of(x, slot), task.rows, dw.middle_rows(o, n), mode);
    } else {
      outer_product<F>(g.rows_of(dy, slot), o, g.hidden.middle_rows(slot, task.rows), task.rows,
                       g.ddown[task.expert].middle_rows(o, n), mode);
    }
  });
}

}  // namespace simd

/// Weight gradients, group.dweight, and the slots' shares of dx in group.out, from dy (T, D).
inline void experts_backward(cpu const& on, activation act, std::span<expert_group const> groups,
                             matrix<float const> x, matrix<float const> dy, gradients mode,
                             expert_task* tasks, expert_room const& room) {
  simd::in_products_of(on, [&]<format F>() {
    simd::backward_through_down<F>(on, act, groups, dy, tasks, room);
    simd::backward_through_gate_up<F>(on, groups, tasks, room);
    simd::weight_gradients<F>(on, groups, x, dy, mode, tasks);
  });
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
    expert_room room;
    matrix<float> hidden, dgate_up;  // (T, F), (T, 2 F)
    constexpr scratch(arena& memory, extent e)
        : tasks(memory.take<expert_task>(simd::most_tasks(e.tokens, 1, e.workers))),
          room(memory, e, D, F),
          hidden(memory.matrix<float>(e.tokens, F)),
          dgate_up(memory.matrix<float>(e.training ? e.tokens : 0, 2 * F)) {}
  };

  template <class W>
  static void forward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                      matrix<float> y) {
    scratch const t(p.scratch, p.extent);
    expert_group const g = group(w, s, t, x.rows, y);
    simd::in_products_of(p.on, [&]<format N>() {
      experts_forward(p.on, Act, {&g, 1}, simd::stored_experts<N>{}, x, t.tasks, t.room);
    });
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
    experts_backward(p.on, Act, {&g, 1}, x, dy, p.gradients, t.tasks, t.room);
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
