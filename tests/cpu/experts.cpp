// Experts and feed-forward blocks on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/experts.hpp>
#include <finegrain/reference/experts.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

/// What experts work in, poisoned.
struct expert_memory {
  fg::buffer<> memory;
  fg::arena arena;
  fg::expert_task* tasks;
  fg::expert_room room;

  expert_memory(std::int64_t slots, std::int64_t experts, std::int64_t D, std::int64_t F)
      : memory(bytes(slots, experts, D, F)),
        arena(memory.data(), memory.size()),
        tasks(arena.take<fg::expert_task>(most_tasks(slots, experts))),
        room(arena, training(slots), D, F) {
    std::fill_n(reinterpret_cast<float*>(memory.data()), memory.size() / 4, poison);
  }

 private:
  static std::int64_t bytes(std::int64_t slots, std::int64_t experts, std::int64_t D,
                            std::int64_t F) {
    fg::arena counting;
    static_cast<void>(counting.take<fg::expert_task>(most_tasks(slots, experts)));
    static_cast<void>(fg::expert_room(counting, training(slots), D, F));
    return counting.used();
  }
  static std::int64_t most_tasks(std::int64_t slots, std::int64_t experts) {
    return fg::simd::most_tasks(slots, experts, fg::cpu().threads.workers());
  }
  static fg::extent training(std::int64_t slots) {
    return {slots, fg::cpu().threads.workers(), true};
  }
};

TEST_CASE("a feed-forward block agrees with the specification, values and gradients") {
  CHECK(distance<fg::mlp<33, 50>>(random_numbers(130 * 33, 2), random_numbers(130 * 33, 3)) < 4e-6);
  CHECK(distance<fg::mlp<40, 300, fg::activation::geglu>>(random_numbers(9 * 40, 2),
                                                          random_numbers(9 * 40, 3)) < 4e-6);
  CHECK(distance<fg::mlp<37, 290, fg::activation::reglu>>(random_numbers(9 * 37, 2),
                                                          random_numbers(9 * 37, 3)) < 4e-6);
  using limited = fg::mlp<37, 290, fg::glu{fg::activation::swiglu, 0.25f}>;
  CHECK(distance<limited>(random_numbers(9 * 37, 2), random_numbers(9 * 37, 3)) < 4e-6);
  CHECK(distance<fg::mlp<1, 1>>(random_numbers(1, 2), random_numbers(1, 3)) < 4e-6);
}

TEST_CASE("a feed-forward block gives the same bits for any threads and any split of the batch") {
  numbers const x = random_numbers(201 * 30, 2), dy = random_numbers(201 * 30, 3);
  layer<fg::mlp<30, 270>> one(fg::cpu(fg::parallel{}));
  one.train(x, dy);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<fg::mlp<30, 270>> many{fg::cpu(pool)};
    many.train(x, dy);
    CHECK(same(one.y, many.y));
    CHECK(same(one.dx, many.dx));
    CHECK(same(one.all_gradients(), many.all_gradients()));
  }
  layer<fg::mlp<30, 270>> part;
  numbers y;
  for (int t = 0; t < 201; t += 67) y = joined(y, part.forward(rows(x, 30, t, 67)));
  CHECK(same(one.y, y));
}

TEST_CASE("each expert works on the rows of its slots, and an idle one's gradient is exactly 0") {
  int const E = 3, F = 20, D = 9, slots = 5;
  numbers const gate = random_numbers(E * F * D, 1), up = random_numbers(E * F * D, 2),
                down = random_numbers(E * D * F, 3), x = random_numbers(4 * D, 4),
                dy = random_numbers(4 * D, 5);
  std::vector<std::int64_t> const offsets{0, 2, 2, 5};
  std::vector<std::int32_t> const token{3, 0, 1, 2, 3};
  numbers gate_up(slots * 2 * F), hidden(slots * F), out(slots * D, poison),
      dgate_up(slots * 2 * F);
  numbers dgate(gate.size(), poison), dup(gate.size(), poison), ddown(gate.size(), poison);
  fg::expert_group const g{.gate = {gate.data(), E, F, D},
                           .up = {up.data(), E, F, D},
                           .down = {down.data(), E, D, F},
                           .slots = slots,
                           .offsets = offsets.data(),
                           .token = token.data(),
                           .gate_up = view(gate_up, slots, 2 * F),
                           .hidden = view(hidden, slots, F),
                           .out = view(out, slots, D),
                           .dgate = {dgate.data(), E, F, D},
                           .dup = {dup.data(), E, F, D},
                           .ddown = {ddown.data(), E, D, F},
                           .dgate_up = view(dgate_up, slots, 2 * F)};
  expert_memory const memory(slots, E, D, F);
  fg::cpu const on;
  experts_forward(on, fg::activation::swiglu, {&g, 1}, fg::simd::stored_experts<fg::format::f32>(),
                  view(x, 4, D), memory.tasks, memory.room);
  for (int e : {0, 2})
    for (std::int64_t s = offsets[std::size_t(e)]; s < offsets[std::size_t(e) + 1]; ++s) {
      layer<fg::mlp<D, F>> expert;
      auto const w = expert.weights();
      std::copy_n(&gate[std::size_t(e * F * D)], F * D, w.gate.data);
      std::copy_n(&up[std::size_t(e * F * D)], F * D, w.up.data);
      std::copy_n(&down[std::size_t(e * F * D)], F * D, w.down.data);
      CHECK(same(rows(out, D, s, 1), expert.forward(rows(x, D, token[std::size_t(s)], 1))));
    }
  experts_backward(on, fg::activation::swiglu, {&g, 1}, view(x, 4, D), view(dy, 4, D),
                   fg::gradients::overwrite, memory.tasks, memory.room);
  for (auto* m : {&dgate, &dup, &ddown})
    for (std::size_t i = 0; i < m->size(); ++i) {
      bool const idle = i / std::size_t(F * D) == 1;
      CHECK((idle ? (*m)[i] == 0 : !std::isnan((*m)[i])));
    }
}

TEST_CASE("experts read nothing behind the last weight or token") {
  int const F = 11, D = 853;
  guarded gate(F, D), up(F, D), down(D, F), x(2, D), y(2, D);
  for (auto* m : {&gate, &up, &down}) *m = random_numbers(F * D, 1, 0.05);
  x = random_numbers(2 * D, 2);
  numbers hidden(2 * F);
  fg::expert_group const g{.gate = fg::simd::stacked(fg::matrix<float const>(gate.view())),
                           .up = fg::simd::stacked(fg::matrix<float const>(up.view())),
                           .down = fg::simd::stacked(fg::matrix<float const>(down.view())),
                           .slots = 2,
                           .hidden = view(hidden, 2, F),
                           .out = y.view()};
  expert_memory const memory(2, 1, D, F);
  experts_forward(fg::cpu(), fg::activation::swiglu, {&g, 1},
                  fg::simd::stored_experts<fg::format::f32>(), x.view(), memory.tasks, memory.room);
  CHECK(!std::isnan(y.view()(1, D - 1)));
}

}  // namespace
