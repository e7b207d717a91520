// Experts: down(act(gate(x)) * up(x)), many at a time, each on its own rows of x.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "frozen_experts.hpp"
#include "gated.hpp"
#include "linear.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

static_assert(half_panel == lanes);  // gate and up of a hidden vector stand side by side

/// Experts whose weights are as they are stored, or copied; products of numbers in format F.
template <format F>
struct stored_experts {
  static constexpr format products = F;
  weight_copy copy = {};

  auto gate_up(expert_group const& g, std::int64_t e, float* room) const {
    return packing<F>{{copy.of(g.gate[e]), copy.of(g.up[e])}, g.gate.cols, room};
  }
  auto down(expert_group const& g, std::int64_t e, float* room) const {
    return packing<F>{copy.of(g.down[e]), g.down.cols, room};
  }
};

}  // namespace simd

/// group.out from x (T, D). `weights` hands out each expert's panels. A task takes a block of an
/// expert's rows through the whole expert, and what lies between stays in its cache. Where that would
/// be more than a task's share, one loop makes hidden and the next makes out.
template <class Weights>
void experts_forward(cpu const& on, glu act, std::span<expert_group const> groups,
                     Weights const& weights, matrix<float const> x, expert_task* tasks,
                     expert_room const& room) {
  using namespace simd;
  using left = left_rows<Weights::products>;
  using number = unit<Weights::products>;
  int const workers = on.threads.workers();
  std::int64_t most = left::most(x.cols), total = 0;
  for (expert_group const& g : groups) {
    most = std::min<std::int64_t>(most, left::most(g.width()));
    total += g.slots * inner_panels(g);
  }

  using rounded = rounded_rows<Weights::products>;
  if constexpr (rounded::wanted)
    finegrain::detail::for_rows<8>(on, x.rows, [&](std::int64_t t, int worker) {
      left(room.left_of(worker), row_list(x).after(t), 1, x.cols)
          .rows()
          .copy_finished(room.rounded.row(t));
    });
  auto const rows_of = [&](expert_group const& g, std::int64_t first) {
    if constexpr (rounded::wanted)
      return rounded{g.rows_of(room.rounded, first)};
    else
      return g.rows_of(x, first);
  };

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

  constexpr int wide = tile_panels<Weights::products>;
  std::int64_t count = list_tasks(groups, most, workers, wide, inner_panels, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    int const rows = static_cast<int>(task.rows);
    bool const whole = task.end - task.begin == inner_panels(g);
    left const a(room.left_of(worker), rows_of(g, task.first), rows, x.cols);
    left const hidden(room.hidden_of(worker), rows, g.width());
    auto const b = weights.gate_up(g, task.expert, room.right_of(worker));
    a.multiply(b, task.begin, task.end, [&](std::int64_t p, float const* sums) {
      std::int64_t const c = p * half_panel, n = std::min(half_panel, g.width() - c);
      auto const numbers = [&](int r) __attribute__((always_inline)) {
        float* const kept =
            g.gate_up.rows > 0 ? g.gate_up.row(task.first + r) + c / number::numbers : nullptr;
        return gated_forward<Weights::products>(act, sums + r * panel_width, n, kept,
                                                kept ? kept + g.gate_up.cols / 2 : nullptr);
      };
      if (whole)  // behind the last, 0 times infinity may stand
        hidden.rows().put(
            c, n, [&](int r) __attribute__((always_inline)) { return first_of(numbers(r), n); });
      else
        for (int r = 0; r < rows; ++r) store_up_to(g.hidden.row(task.first + r) + c, numbers(r), n);
    });
    if (!whole) return;
    hidden.rows().finish();
    make_out(g, task, hidden, 0, outer_panels(g), worker);
  });

  std::int64_t const share = fair_share(total, workers);
  count = list_tasks(groups, most, workers, wide, outer_panels, tasks, share);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    left const hidden(room.left_of(worker), g.hidden.middle_rows(task.first, task.rows),
                      static_cast<int>(task.rows), g.width());
    make_out(g, task, hidden, task.begin, task.end, worker);
  });
}

namespace simd {

/// A product of rows (K) of each slot with something of its expert as it is stored.
struct slot_product {
  row_list rows;  // from the task's first slot on
  std::int64_t K;
  straight with;
};
/// put(group, task, sums) for products of every block of slots; sums (panel, row, column) of the
/// task's panels. panels(group) says how many there are, product(group, task) what they are.
template <format F, class Product, class Put>
void slot_products(cpu const& on, std::span<expert_group const> groups,
                   std::int64_t (*panels)(expert_group const&), Product&& product, Put&& put,
                   expert_task* tasks, expert_room const& room) {
  std::int64_t const count =
      list_tasks(groups, block_rows, on.threads.workers(), block_panels, panels, tasks);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    slot_product const p = product(g, task);
    float* const sums = room.sums_of(worker);
    simd::room own;
    multiply<F>(p.rows, static_cast<int>(task.rows), p.K, p.with, task.begin, task.end, own, sums);
    put(g, task, static_cast<float const*>(sums));
  });
}

/// dgate_up, weighted hidden and dweight from dy (T, D).
template <format F>
void backward_through_down(cpu const& on, glu act, std::span<expert_group const> groups,
                           matrix<float const> dy, expert_task* tasks, expert_room const& room) {
  auto const product = [&](expert_group const& g, expert_task const& task) {
    return slot_product{
        g.rows_of(dy, task.first), dy.cols, {on.copy.of(g.down[task.expert]), g.width()}};
  };
  auto const put = [act](expert_group const& g, expert_task const& task, float const* sums) {
    for (std::int64_t r = 0; r < task.rows; ++r) {  // a row's panels: memory is passed in order
      std::int64_t const s = task.first + r;
      float const w = g.weight ? g.weight[s] : 1.0f;
      float const* const kept = g.gate_up.row(s);
      float *const d = g.dgate_up.row(s), *const hidden = g.hidden.row(s);
      for (std::int64_t begin = task.begin; begin < task.end; begin += block_panels) {
        vec dot{};
        for (std::int64_t p = begin; p < std::min(begin + block_panels, task.end); ++p) {
          std::int64_t const c = p * panel_width;
          float const* const gate = kept + c / unit<F>::numbers;
          dot += gated_backward<F>(act, sums + ((p - task.begin) * task.rows + r) * panel_width,
                                   std::min<std::int64_t>(panel_width, g.width() - c), w, gate,
                                   gate + g.gate_up.cols / 2, d + c, d + g.width() + c, hidden + c);
        }
        if (g.dweight.rows > 0) g.dweight(s, begin / block_panels) = total(dot);
      }
    }
  };
  auto const panels = [](expert_group const& g) { return ceil_div(g.width(), panel_width); };
  slot_products<F>(on, groups, panels, product, put, tasks, room);
}

/// The slots' shares of dx in group.out, from dgate_up.
template <format F>
void backward_through_gate_up(cpu const& on, std::span<expert_group const> groups,
                              expert_task* tasks, expert_room const& room) {
  auto const product = [&on](expert_group const& g, expert_task const& task) {
    return slot_product{
        g.dgate_up.middle_rows(task.first, task.rows),
        2 * g.width(),
        {on.copy.of(g.gate[task.expert]), g.gate.cols, on.copy.of(g.up[task.expert]), g.width()}};
  };
  auto const put = [](expert_group const& g, expert_task const& task, float const* sums) {
    for (std::int64_t r = 0; r < task.rows; ++r)  // a row's panels: memory is passed in order
      for (std::int64_t p = task.begin; p < task.end; ++p) {
        std::int64_t const c = p * panel_width;
        std::int64_t const n = std::min<std::int64_t>(panel_width, g.gate.cols - c);
        put_past(sums + ((p - task.begin) * task.rows + r) * panel_width, n, gradients::overwrite,
                 g.out.row(task.first + r) + c);
      }
    fence();
  };
  slot_products<F>(on, groups, outer_panels, product, put, tasks, room);
}

/// Weight gradients: a task makes some outputs of an expert's gate, up or down.
template <format F>
void weight_gradients(cpu const& on, std::span<expert_group const> groups, matrix<float const> x,
                      matrix<float const> dy, gradients mode, expert_task* tasks,
                      expert_room const& memory) {
  using enum expert_weight;
  std::int64_t total = 0, count = 0;
  for (expert_group const& g : groups) total += 3 * g.slots * g.width();
  std::int64_t const share = fair_share(total * x.cols, on.threads.workers());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    expert_group const& g = groups[i];
    for (std::int64_t e = 0; e < g.gate.count; ++e)
      for (expert_weight const weight : {gate, up, down}) {
        std::int64_t const outputs = weight == down ? x.cols : g.width();
        std::int64_t const rows = g.end(e) - g.begin(e), blocks = ceil_div(outputs, block_rows);
        std::int64_t const ranges =
            std::clamp<std::int64_t>(ceil_div(rows * g.width() * x.cols, share), 1, blocks);
        for (std::int64_t r = 0; r < ranges; ++r)
          tasks[count++] = {.group = static_cast<std::int32_t>(i),
                            .expert = static_cast<std::int32_t>(e),
                            .first = g.begin(e),
                            .rows = rows,
                            .begin = blocks * r / ranges * block_rows,
                            .end = std::min(outputs, blocks * (r + 1) / ranges * block_rows),
                            .weight = weight};
      }
  }
  order_tasks(tasks, count);
  on.threads(count, [&](std::int64_t i, int worker) {
    expert_task const& task = tasks[i];
    expert_group const& g = groups[static_cast<std::size_t>(task.group)];
    room own;
    auto const product = [&](row_list a, std::int64_t first, row_list b, matrix<float> dw) {
      outer_product<F>(a, first, b, task.rows, dw.middle_rows(task.begin, task.end - task.begin),
                       mode, own, memory.sums_of(worker), memory.sums);
    };
    row_list const d_gate_up = g.dgate_up.middle_rows(task.first, task.rows);
    switch (task.weight) {
      case gate:
        return product(d_gate_up, task.begin, g.rows_of(x, task.first), g.dgate[task.expert]);
      case up:
        return product(d_gate_up, g.width() + task.begin, g.rows_of(x, task.first),
                       g.dup[task.expert]);
      case down:
        return product(g.rows_of(dy, task.first), task.begin,
                       g.hidden.middle_rows(task.first, task.rows), g.ddown[task.expert]);
    }
  });
}

}  // namespace simd

/// Weight gradients, group.dweight, and the slots' shares of dx in group.out, from dy (T, D).
FINEGRAIN_LAZY inline void experts_backward(cpu const& on, glu act,
                                            std::span<expert_group const> groups,
                                            matrix<float const> x, matrix<float const> dy,
                                            gradients mode, expert_task* tasks,
                                            expert_room const& room) {
  simd::in_products_of(on, [&]<format F>() {
    simd::backward_through_down<F>(on, act, groups, dy, tasks, room);
    simd::backward_through_gate_up<F>(on, groups, tasks, room);
    simd::weight_gradients<F>(on, groups, x, dy, mode, tasks, room);
  });
}

}  // namespace FINEGRAIN_ISA

template <int D, int F, glu Act>
struct plan<cpu, mlp<D, F, Act>> {
  struct saved {
    matrix<float> gate_up;  // (T, kept_units(F)), in training
    constexpr saved(arena& memory, extent e)
        : gate_up(memory.matrix<float>(e.training ? e.tokens : 0, kept_units(F, e.kept))) {}
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
    auto const run = [&](auto const& experts) {
      experts_forward(p.on, Act, {&g, 1}, experts, x, t.tasks, t.room);
    };
    if constexpr (Frozen<W>)
      run(packed_experts<W::number>{w, {}});
    else
      simd::in_products_of(p.on, [&]<format N>() { run(simd::stored_experts<N>{p.on.copy}); });
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
    expert_group g{.down = simd::stacked(w.down),
                   .slots = tokens,
                   .gate_up = s.gate_up,
                   .hidden = t.hidden,
                   .out = out};
    if constexpr (Frozen<W>) {
      g.gate = g.up = simd::stacked(w.gate_up);
    } else {
      g.gate = simd::stacked(w.gate);
      g.up = simd::stacked(w.up);
    }
    return g;
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
