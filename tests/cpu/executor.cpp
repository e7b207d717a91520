// Products in bf16: mixed precision, close to f32 and with the same laws.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>
#include <finegrain/train/trainer.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

constexpr fg::config moe{.hidden = 45, .width = 27, .routed = 9, .top_k = 3, .shared = 2};
using block = decltype(fg::residual(fg::rmsnorm<45>{} | fg::attention<45, 3, 3, 16>{}) |
                       fg::residual(fg::rmsnorm<45>{} | fg::mixture<moe>{}));

/// Relative error, in the mean square, of y, dx and all gradients.
double off(layer<block> const& exact, layer<block> const& got) {
  double error = 0, size = 0;
  auto const add = [&](numbers const& a, numbers const& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (std::isnan(a[i]) && std::isnan(b[i])) continue;  // padding
      error += std::pow(double(a[i]) - double(b[i]), 2);
      size += std::pow(double(a[i]), 2);
    }
  };
  add(exact.y, got.y);
  add(exact.dx, got.dx);
  add(exact.dw, got.dw);
  return std::sqrt(error / size);
}

TEST_CASE("a cpu whose products are bf16 is near one whose products are f32") {
  std::int64_t const T = 130;
  numbers const x = random_numbers(T * 45, 2), dy = random_numbers(T * 45, 3);
  layer<block> exact, rounded(fg::cpu{fg::format::bf16});
  double const error = off(exact.train(x, dy), rounded.train(x, dy));
  CHECK(error < 0.02);
  CHECK(error > 1e-4);
}

TEST_CASE("bf16 products have the same bits for any threads, and for a token alone") {
  std::int64_t const T = 70;
  numbers const x = random_numbers(T * 45, 2), dy = random_numbers(T * 45, 3);
  layer<block> one(fg::cpu(fg::parallel{}, fg::format::bf16));
  one.train(x, dy);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<block> many(fg::cpu(pool, fg::format::bf16));
    many.train(x, dy);
    CHECK(same(one.y, many.y));
    CHECK(same(one.dx, many.dx));
    CHECK(same(one.all_gradients(), many.all_gradients()));
  }
  using expert = fg::mixture<moe>;
  layer<expert> both(fg::cpu{fg::format::bf16}), alone(fg::cpu{fg::format::bf16});
  numbers const y = both.forward(x);
  for (std::int64_t t = 0; t < T; t += 9)
    CHECK(same(alone.forward(rows(x, 45, t, 1)), rows(y, 45, t, 1)));
}

TEST_CASE("whole numbers that bf16 holds give exact products, forward and backward") {
  int const T = 37, K = 50, N = 40;
  auto const whole = [](std::int64_t count, int seed) {
    numbers made(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < made.size(); ++i)
      made[i] = float(int((i * 2654435761u + std::size_t(seed) * 40503u) >> 7 & 15) - 7);
    return made;
  };
  numbers const x = whole(T * K, 1), w = whole(N * K, 2), dy = whole(T * N, 3);
  auto const run = [&](fg::cpu const& on) {
    numbers y(T * N, poison), dw(N * K, poison), dx(T * K, poison);
    linear_forward(on, view(x, T, K), view(w, N, K), view(y, T, N));
    linear_backward(on, view(x, T, K), view(w, N, K), view(dy, T, N), view(dw, N, K),
                    fg::gradients::overwrite, view(dx, T, K), fg::gradients::overwrite);
    return joined(joined(y, dw), dx);
  };
  CHECK(same(run(fg::cpu{fg::format::bf16}), run(fg::cpu())));
}

TEST_CASE("a step of training in mixed precision lowers the loss as one in f32 does") {
  tiny::text const text(64);
  auto const learn = [&](fg::cpu on) {
    fg::network<tiny::decoder, fg::cpu> net(on, {.deviation = 0.1});
    fg::trainer train{net, fg::adamw{.lr = 3e-3}};
    double loss = 0;
    for (int i = 0; i < 20; ++i) loss = train.step(text.inputs(), text.targets()).loss;
    return loss;
  };
  double const exact = learn(fg::cpu()), rounded = learn(fg::cpu{fg::format::bf16});
  CHECK(rounded == Approx(exact).epsilon(0.05));
}

TEST_CASE("products in other formats are refused") {
  CHECK_THROWS_WITH(fg::cpu{fg::format::int8}, "the cpu executor multiplies in f32 or in bf16");
}

}  // namespace
