// The plans of the algebra: what a | b, a + b, residual(a), repeat<n>(a) and names compute.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/compose.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "toy.hpp"

namespace {

namespace fg = finegrain;
constexpr int D = 3;
constexpr std::int64_t T = 4;
constexpr double poison = std::numeric_limits<double>::quiet_NaN();

template <int W>
struct nickname : fg::named {
  static constexpr auto expr = toy::scale<W>{} | toy::square<W>{};
};

struct result {
  std::vector<double> y, dx, dw;
};

/// Forward and backward of E on fixed numbers, in memory that is NaN wherever nobody wrote.
template <fg::Expr E>
result run(E, bool training = true, fg::gradients mode = fg::gradients::overwrite,
           double before = poison) {
  std::int64_t const n = fg::weights_size<E>();
  std::vector<double> w(static_cast<std::size_t>(n)), x(T * D), dy(T * D);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = 0.5 + 0.01 * static_cast<double>(i % 7);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.1 * static_cast<double>(i) - 0.5;
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = 1.0 - 0.05 * static_cast<double>(i);
  result r{std::vector<double>(T * D, poison), std::vector<double>(T * D, poison),
           std::vector<double>(w.size(), before)};

  fg::extent const e{T, 1, training};
  auto const block = [](std::int64_t bytes) {
    fg::buffer<> memory(bytes);
    std::fill(memory.begin(), memory.end(), std::byte(0xff));  // NaN in any format
    return memory;
  };
  fg::buffer<> const saved_memory = block(fg::saved_bytes<toy::executor, E>(e));
  fg::buffer<> const scratch_memory = block(fg::scratch_bytes<toy::executor, E>(e));
  fg::arena saved_arena(saved_memory.data(), saved_memory.size());
  fg::arena const scratch(scratch_memory.data(), scratch_memory.size());

  using plan = fg::plan<toy::executor, E>;
  typename plan::saved const saved(saved_arena, e);
  CHECK(saved_arena.used() <= saved_memory.size());
  toy::executor const on;
  fg::batch const b{.tokens = T};
  fg::pass<toy::executor> const p{on, b, scratch, e, mode};
  auto const views = fg::bind_weights<E, double const>(w.data());
  plan::forward(p, views, saved, {x.data(), T, D}, {r.y.data(), T, D});
  if (training)
    plan::backward(p, views, saved, {x.data(), T, D}, {dy.data(), T, D},
                   fg::bind_weights<E, double>(r.dw.data()), {r.dx.data(), T, D});
  return r;
}

TEST_CASE("a | b is b after a, and its gradient the chain rule") {
  auto const a = run(toy::scale<D>{} | toy::square<D>{});
  for (std::size_t i = 0; i < a.y.size(); ++i) {
    double const x = 0.1 * static_cast<double>(i) - 0.5, g = 0.5 + 0.01 * double(i % D);
    double const dy = 1.0 - 0.05 * static_cast<double>(i);
    CHECK(a.y[i] == Approx(g * x * g * x));
    CHECK(a.dx[i] == Approx(dy * 2 * g * x * g));
  }
}

TEST_CASE("a + b adds outputs and input gradients") {
  auto const s = run(toy::square<D>{} + toy::square<D>{}), one = run(toy::square<D>{});
  for (std::size_t i = 0; i < s.y.size(); ++i) {
    CHECK(s.y[i] == 2 * one.y[i]);
    CHECK(s.dx[i] == 2 * one.dx[i]);
  }
}

TEST_CASE("residual(a) adds the input, and dy to the gradient") {
  auto const s = run(fg::residual(toy::square<D>{})), one = run(toy::square<D>{});
  for (std::size_t i = 0; i < s.y.size(); ++i) {
    CHECK(s.y[i] == Approx(one.y[i] + 0.1 * static_cast<double>(i) - 0.5).margin(1e-12));
    CHECK(s.dx[i] == Approx(one.dx[i] + 1.0 - 0.05 * static_cast<double>(i)));
  }
}

TEST_CASE("repeat<3>(a) is a | a | a, with weights of its own each time") {
  constexpr auto a = toy::scale<D>{} | fg::residual(toy::square<D>{});
  auto const looped = run(fg::repeat<3>(a)), written = run(a | a | a);
  CHECK(looped.y == written.y);
  CHECK(looped.dx == written.dx);
  for (std::size_t layer = 0; layer < 3; ++layer)
    for (std::size_t c = 0; c < D; ++c)
      CHECK(looped.dw[64 * layer + c] == written.dw[64 * layer + c]);
}

TEST_CASE("inference gives the bits of training, in less memory") {
  constexpr auto a = fg::repeat<5>(fg::residual(toy::scale<D>{} | toy::square<D>{}));
  CHECK(run(a, false).y == run(a, true).y);
  using E = std::remove_cvref_t<decltype(a)>;
  CHECK(fg::saved_bytes<toy::executor, E>({T, 1, false}) <
        fg::saved_bytes<toy::executor, E>({T, 1, true}));
}

TEST_CASE("a name computes what it stands for") {
  auto const name = run(nickname<D>{}), expression = run(nickname<D>::expr);
  CHECK(name.y == expression.y);
  CHECK(name.dx == expression.dx);
}

TEST_CASE("gradients overwrite garbage, or add to what is there") {
  constexpr auto a = toy::scale<D>{} | toy::square<D>{};
  auto const once = run(a);
  auto const added = run(a, true, fg::gradients::accumulate, 100.0);
  for (std::size_t c = 0; c < D; ++c) {
    CHECK(std::isfinite(once.dw[c]));
    CHECK(added.dw[c] == Approx(once.dw[c] + 100.0));
  }
}

// Memory is a constant of the expression and the extent.
using pair = fg::then<toy::square<D>, toy::square<D>>;
static_assert(fg::saved_bytes<toy::executor, toy::square<D>>({16, 1, true}) == 128);
static_assert(fg::saved_bytes<toy::executor, pair>({16, 1, true}) == 128 + 384 + 128);
static_assert(fg::scratch_bytes<toy::executor, pair>({16, 1, true}) == 384 + 64);
static_assert(fg::saved_bytes<toy::executor, fg::repeated<4, toy::square<D>>>({16, 1, true}) ==
              4 * (128 + 384));

}  // namespace
