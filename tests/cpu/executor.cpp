// Products in bf16: mixed precision, close to f32 and with the same laws.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>
#include <finegrain/reference/reference.hpp>
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

TEST_CASE(
    "values and gradients in mixed precision are those of the specification to bf16's error") {
  numbers const x = random_numbers(130 * 45, 2, 0.5), dy = random_numbers(130 * 45, 3);
  fg::cpu const on{fg::format::bf16};
  CHECK(distance<fg::mlp<45, 27>>(x, dy, {}, on) < 0.02);
  CHECK(distance<fg::mlp<45, 300, fg::activation::geglu>>(x, dy, {}, on) < 0.02);
  CHECK(distance<fg::shared_experts<moe>>(x, dy, {}, on) < 0.02);
  CHECK(distance<fg::mixture<moe>>(x, dy, {}, on) < 0.02);
}

constexpr fg::extent training(fg::format kept) { return {1000, 2, true, kept}; }
template <class E>
constexpr std::int64_t saved(fg::format kept) {
  return fg::saved_bytes<fg::cpu, E>(training(kept));
}
constexpr fg::config fine{.hidden = 64, .width = 32, .routed = 16, .top_k = 4, .shared = 2};

TEST_CASE("what experts keep for backward takes half the memory in mixed precision") {
  constexpr auto f32 = fg::format::f32, bf16 = fg::format::bf16;
  STATIC_REQUIRE(2 * saved<fg::mlp<64, 128>>(bf16) == saved<fg::mlp<64, 128>>(f32));
  STATIC_REQUIRE(saved<fg::mlp<64, 27>>(bf16) == 1000 * 2 * 14 * 4);
  STATIC_REQUIRE(saved<fg::mixture<fine>>(f32) - saved<fg::mixture<fine>>(bf16) ==
                 1000 * (4 + 2) * 2 * 32 * 2);
  fg::network<fg::mixture<fine>, fg::cpu> net{fg::cpu{fg::format::bf16}};
  CHECK(net.extent_of(1000, true).kept == bf16);
  CHECK(fg::network<fg::mixture<fine>, fg::cpu>().extent_of(1000, true).kept == f32);
}

TEST_CASE("numbers kept in bf16 are read as they were rounded, however many") {
  using unit = fg::simd::unit<fg::format::bf16>;
  numbers const x = random_numbers(fg::simd::lanes, 7);
  for (std::int64_t n = 1; n <= fg::simd::lanes; ++n) {
    numbers kept(fg::simd::lanes / 2 + 1, poison);
    fg::simd::keep<fg::format::bf16>(fg::simd::load(x.data()), n, kept.data());
    for (std::int64_t i = (n + 1) / 2; i < std::int64_t(kept.size()); ++i)
      CHECK(std::isnan(kept[std::size_t(i)]));
    numbers read(fg::simd::lanes);
    fg::simd::store(read.data(), unit::numbers_of(kept.data(), n));
    for (std::int64_t i = 0; i < fg::simd::lanes; ++i)
      CHECK(read[std::size_t(i)] == (i < n ? fg::rounded_to_bf16(x[std::size_t(i)]) : 0));
  }
}

TEST_CASE("a gate's gradient from numbers kept in bf16 is that of those numbers") {
  using fg::activation;
  auto const act = GENERATE(fg::glu{activation::swiglu}, fg::glu{activation::geglu},
                            fg::glu{activation::reglu}, fg::glu{activation::swiglu, 0.5f});
  for (std::int64_t n : {1, 3, fg::simd::lanes, fg::simd::lanes + 3, fg::simd::panel_width}) {
    auto const of = [n](std::uint64_t seed) {
      numbers made = random_numbers(n, seed);
      for (float& one : made) one = fg::rounded_to_bf16(one);
      return made;
    };
    numbers const gate = of(1), up = of(2), dh = random_numbers(fg::simd::panel_width, 3);
    numbers halves(std::size_t(n + 1)), dgate[2], dup[2], hidden[2];
    float* const second = halves.data() + (n + 1) / 2;
    fg::simd::unit<fg::format::bf16>::take(gate.data(), n, halves.data());
    fg::simd::unit<fg::format::bf16>::take(up.data(), n, second);
    for (auto* made : {dgate, dup, hidden}) made[0] = made[1] = numbers(std::size_t(n));
    float const dot = fg::simd::total(fg::simd::gated_backward<fg::format::f32>(
        act, dh.data(), n, 0.7f, gate.data(), up.data(), dgate[0].data(), dup[0].data(),
        hidden[0].data()));
    float const other_dot = fg::simd::total(fg::simd::gated_backward<fg::format::bf16>(
        act, dh.data(), n, 0.7f, halves.data(), second, dgate[1].data(), dup[1].data(),
        hidden[1].data()));
    CHECK(other_dot == Approx(dot).epsilon(1e-5).margin(1e-5));
    for (auto* made : {dgate, dup, hidden})  // compilers may contract one and not the other
      for (std::size_t i = 0; i < made[0].size(); ++i)
        CHECK(made[1][i] == Approx(made[0][i]).epsilon(1e-5).margin(1e-5));
  }
}

TEST_CASE("backward refuses another format of products than forward's") {
  fg::network<fg::mlp<8, 8>, fg::cpu> net;
  numbers const x = random_numbers(8, 1);
  numbers y(8);
  net.forward({.tokens = 1}, view(x, 1, 8), view(y, 1, 8));
  net.on().products = fg::format::bf16;
  CHECK_THROWS_WITH(net.backward(view(x, 1, 8)),
                    "the format of products changed between forward and backward");
}

/// Weights rounded to bf16, NaN where nobody may read.
struct copy_of {
  std::vector<fg::bf16> rounded;
  template <class Layer>
  explicit copy_of(Layer& l) : rounded(l.w.size(), fg::bf16(poison)) {
    for (auto const& entry : fg::list_weights<typename Layer::expression>())
      for (std::int64_t i = 0; i < entry.rows * entry.cols && reads(entry.name); ++i)
        rounded[std::size_t(entry.offset + i)] = fg::bf16(l.w[std::size_t(entry.offset + i)]);
    l.on.copy = {l.w.data(), rounded.data(), std::int64_t(l.w.size())};
  }
  static bool reads(std::string const& name) {
    return name.find("router") == std::string::npos &&
           name.find("shared_gate") == std::string::npos;
  }
};

TEST_CASE("a copy of the weights in bf16 gives the bits that rounding as they are packed does") {
  numbers const x = random_numbers(130 * 45, 2), dy = random_numbers(130 * 45, 3);
  auto const check = [&]<class E>(E) {
    layer<E> plain(fg::cpu{fg::format::bf16}), copied(fg::cpu{fg::format::bf16});
    copy_of const copy(copied);
    plain.train(x, dy);
    copied.train(x, dy);
    CHECK(same(plain.y, copied.y));
    CHECK(same(plain.dx, copied.dx));
    CHECK(same(plain.all_gradients(), copied.all_gradients()));
    for (auto& one : copied.w) one = poison;  // products read the copy alone
    if constexpr (std::is_same_v<E, fg::mlp<45, 300>>) CHECK(same(copied.forward(x), plain.y));
  };
  check(block());
  check(fg::mixture<moe>());
  check(fg::mlp<45, 300>());
  check(fg::linear<45, 45>());
  check(fg::attention<45, 3, 1, 16>());
}

TEST_CASE("products of f32 read no copy, and a copy is of its own array alone") {
  numbers const x = random_numbers(7 * 45, 2);
  layer<fg::mlp<45, 27>> plain, copied, other(fg::cpu{fg::format::bf16}),
      rounded(fg::cpu{fg::format::bf16});
  std::vector<fg::bf16> const nothing(copied.w.size(), fg::bf16(poison));
  copied.on.copy = {copied.w.data(), nothing.data(), std::int64_t(nothing.size())};
  CHECK(same(copied.forward(x), plain.forward(x)));
  other.on.copy = copied.on.copy;
  CHECK(same(other.forward(x), rounded.forward(x)));
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
  numbers const x = whole_numbers(T * K, 1), w = whole_numbers(N * K, 2),
                dy = whole_numbers(T * N, 3);
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
