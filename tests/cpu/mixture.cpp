// The DeepSeekMoE layer on the cpu: the laws it obeys, bit by bit.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/mixture.hpp>
#include <finegrain/reference/mixture.hpp>
#include <finegrain/reference/norm.hpp>
#include <set>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

constexpr int D = 37;
constexpr fg::config moe{.hidden = D,
                         .width = 150,
                         .routed = 10,
                         .top_k = 3,
                         .shared = 2,
                         .score = fg::score::sigmoid,
                         .renormalise = true,
                         .groups = 5,
                         .group_limit = 3,
                         .bias = true,
                         .shared_gate = true};
constexpr fg::config plain{.hidden = D, .width = 20, .routed = 7, .top_k = 2};
using layer_of_all = layer<fg::mixture<moe>>;

/// residual(rmsnorm | mixture), and the same with the norm under a name, which hides the pattern.
struct hidden_norm : fg::named {
  static constexpr auto expr = fg::rmsnorm<D>{};
};
template <fg::config C>
using fused = decltype(fg::residual(fg::rmsnorm<D>{} | fg::mixture<C>{}));
template <fg::config C>
using composed = decltype(fg::residual(hidden_norm{} | fg::mixture<C>{}));
/// What the mixture makes times a factor.
template <fg::config C>
using fused_times =
    decltype(fg::residual(fg::rmsnorm<D>{} | fg::mixture<C>{} | fg::times<D, 0.22>{}));
template <fg::config C>
using composed_times =
    decltype(fg::residual(hidden_norm{} | fg::mixture<C>{} | fg::times<D, 0.22>{}));

template <fg::Expr A, fg::Expr B>
void check_same(layer<A> const& a, layer<B> const& b) {
  CHECK(same(a.y, b.y));
  CHECK(same(a.dx, b.dx));
  CHECK(same(a.all_gradients(), b.all_gradients()));
}

TEST_CASE("the layer's parts agree with the specification, values and gradients") {
  numbers const x = random_numbers(60 * D, 2), dy = random_numbers(60 * D, 3);
  CHECK(distance<fg::shared_experts<moe>>(x, dy) < 2e-5);
  CHECK(distance<fg::routed_experts<moe>>(x, dy) < 2e-5);
  CHECK(distance<fg::mixture<moe>>(x, dy, {.routing = {.balance = {.expert = 0.5}}}) < 2e-5);
  CHECK(distance<fused<moe>>(x, dy) < 2e-5);
  CHECK(distance<fused<plain>>(x, dy) < 2e-5);
}

TEST_CASE("one more expert than configured can be asked for where nothing is trained") {
  numbers const x = random_numbers(9 * D, 2);
  layer<fg::mixture<plain>> fast;
  exact_layer<fg::mixture<plain>> exact;
  fg::batch const b{.routing = {.top_k = 3}};
  CHECK(difference(exact.forward(x, b), fast.forward(x, b)) < 1e-5);
}

TEST_CASE("the layer gives the same bits for 1, 2, 3 and 8 threads, forward and backward") {
  numbers const x = random_numbers(150 * D, 2), dy = random_numbers(150 * D, 3);
  layer_of_all one(fg::cpu(fg::parallel{}));
  one.train(x, dy);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer_of_all many{fg::cpu(pool)};
    check_same(one, many.train(x, dy));
  }
}

TEST_CASE("a token gives the same bits alone, in any part of a batch, and in training") {
  numbers const x = random_numbers(150 * D, 2);
  layer_of_all whole, part;
  whole.forward(x);
  numbers y;
  for (auto [first, count] : {std::pair{0, 1}, {1, 1}, {2, 7}, {9, 100}, {109, 41}})
    y = joined(y, part.forward(rows(x, D, first, count)));
  CHECK(same(whole.y, y));
  CHECK(same(part.forward(x, {}, true), y));
}

TEST_CASE("a row that is not a number leaves the bits of all others") {
  numbers x = random_numbers(50 * D, 2);
  layer_of_all l;
  numbers const clean = l.forward(x);
  for (float const bad : {poison, infinity, -infinity}) {
    std::fill_n(&x[20 * D], D, bad);
    x[33 * D + 4] = bad;
    l.forward(x);
    for (int t = 0; t < 50; ++t)
      if (t != 20 && t != 33) CHECK(same(rows(l.y, D, t, 1), rows(clean, D, t, 1)));
    CHECK(std::isnan(l.y[20 * D]));
  }
}

TEST_CASE("gradients of a row that is not a number reach no other row, and its own experts alone") {
  constexpr int T = 50, odd = 20;
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  fg::routing_log log{{fg::routing_report(plain.routed)}};
  log.layers[0].experts.resize(T * plain.top_k);
  log.layers[0].weights.resize(T * plain.top_k);
  std::set<int> reached;
  auto const train = [&](layer<fg::mixture<plain>>& l, numbers const& from) {
    l.train(from, dy, {.log = &log});
    for (int slot = 0; slot < plain.top_k; ++slot)
      reached.insert(log.layers[0].choices()(odd, slot));
  };
  layer<fg::mixture<plain>> clean, l;
  train(clean, x);
  for (float const bad : {poison, infinity, -infinity}) {
    numbers spoilt = x;
    std::fill_n(&spoilt[odd * D], D, bad);
    train(l, spoilt);
    for (int t = 0; t < T; ++t)
      CHECK((t == odd || same(rows(l.dx, D, t, 1), rows(clean.dx, D, t, 1))));
    for (int e = 0; e < plain.routed; ++e) {
      auto const ours = l.gradients(), theirs = clean.gradients();
      auto const kept = [](fg::matrix<float> a, fg::matrix<float> b) {
        return std::equal(a.data, a.data + a.size(), b.data);
      };
      CHECK((kept(ours.gate[e], theirs.gate[e]) && kept(ours.up[e], theirs.up[e]) &&
             kept(ours.down[e], theirs.down[e])) == !reached.contains(e));
    }
  }
  CHECK(reached.size() < plain.routed);
}

TEST_CASE(
    "all tokens on the same experts: the others' gradients are exactly 0 in poisoned memory") {
  layer<fg::mixture<plain>> l;
  exact_layer<fg::mixture<plain>> exact;
  numbers w = l.w;
  auto const views = fg::bind_weights<fg::mixture<plain>, float>(w.data());
  for (int r = 0; r < plain.routed; ++r)  // whatever the token, experts 2 and 5 win
    for (int d = 0; d < D; ++d)
      views.router(r, d) = d == 0 && (r == 2 || r == 5) ? 1.0f + 0.1f * float(r) : 0;
  l.set_weights(w);
  exact.set_weights(w);
  numbers x = random_numbers(130 * D, 2);
  for (int t = 0; t < 130; ++t) x[std::size_t(t * D)] = 3;
  numbers const dy = random_numbers(130 * D, 3);
  l.train(x, dy);
  exact.train(x, dy);
  CHECK(difference(exact.y, l.y) < 1e-5);
  CHECK(difference(exact.all_gradients(), l.all_gradients()) < 1e-5);
  auto const dw = l.gradients();
  for (int e = 0; e < plain.routed; ++e)
    for (auto m : {dw.gate[e], dw.up[e], dw.down[e]}) {
      std::int64_t zeros = 0;
      for (std::int64_t i = 0; i < m.size(); ++i) zeros += m.data[i] == 0;
      CHECK((zeros == m.size()) == (e != 2 && e != 5));
    }
  l.train({}, {});
  for (float const number : l.all_gradients()) CHECK(number == 0);
}

TEST_CASE("gradients are added where asked") {
  numbers const x = random_numbers(60 * D, 2), dy = random_numbers(60 * D, 3);
  layer_of_all plainly, adding;
  adding.mode = fg::gradients::accumulate;
  adding.before = 0;
  plainly.train(x, dy);
  adding.train(x, dy);
  check_same(plainly, adding);
  adding.before = 1;
  adding.train(x, dy);
  exact_layer<fg::mixture<moe>> exact;
  exact.mode = fg::gradients::accumulate;
  exact.before = 1;
  exact.train(x, dy);
  CHECK(difference(exact.all_gradients(), adding.all_gradients()) < 1e-5);
}

TEST_CASE("numbers that f32 holds exactly come out exact, values and gradients") {
  // Logits are 0 or 200: scores exactly 1/2 or 1. Gates are at least 64: silu(64) is 64.
  constexpr fg::config c{.hidden = 9,
                         .width = 5,
                         .routed = 6,
                         .top_k = 2,
                         .shared = 1,
                         .score = fg::score::sigmoid,
                         .scale = 2};
  using E = fg::mixture<c>;
  layer<E> fast;
  exact_layer<E> exact;
  numbers w(fast.w.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = float(int(fg::random_word(1, i) % 5) - 2);
  auto const views = fg::bind_weights<E, float>(w.data());
  auto always_on = [](fg::matrix<float> gate) {
    for (std::int64_t f = 0; f < gate.rows; ++f) {
      std::fill_n(gate.row(f), gate.cols, 0.0f);
      gate(f, 0) = 64, gate(f, 1 + f % 4) = 1;
    }
  };
  for (int e = 0; e < c.routed; ++e) always_on(views.b.gate[e]);
  always_on(views.a.gate);
  std::fill_n(views.b.router.data, views.b.router.size(), 0.0f);
  for (int e = 0; e < c.routed; ++e) views.b.router(e, 1 + e) = 200;
  fast.set_weights(w);
  exact.set_weights(w);
  numbers x(100 * 9), dy(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = i % 9 == 0 ? 1.0f : float(fg::random_word(2, i) % 2);
    dy[i] = float(int(fg::random_word(3, i) % 5) - 2);
  }
  fast.train(x, dy);
  exact.train(x, dy);
  CHECK(difference(exact.y, fast.y) == 0);
  CHECK(difference(exact.dx, fast.dx) == 0);
  CHECK(difference(exact.all_gradients(), fast.all_gradients()) == 0);
}

TEST_CASE("the fused norm and residual give the composed plan's bits, forward and backward") {
  static_assert(!std::is_same_v<fg::plan<fg::cpu, fused<moe>>::saved,
                                fg::plan<fg::cpu, composed<moe>>::saved>);
  for (std::int64_t T : {0, 1, 150}) {
    numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
    layer<fused<moe>> one;
    layer<composed<moe>> two;
    check_same(one.train(x, dy), two.train(x, dy));
    CHECK(same(one.forward(x), two.forward(x)));
    layer<fused<plain>> three;
    layer<composed<plain>> four;
    check_same(three.train(x, dy), four.train(x, dy));
    layer<fused_times<moe>> five;
    layer<composed_times<moe>> six;
    check_same(five.train(x, dy), six.train(x, dy));
    CHECK(same(five.forward(x), six.forward(x)));
    CHECK(distance<fused_times<moe>>(x, dy) < 2e-5);
  }
}

TEST_CASE("without shared experts in the request the routed ones are left, and shared dw is 0") {
  numbers const x = random_numbers(20 * D, 2), dy = random_numbers(20 * D, 3);
  CHECK(distance<fg::mixture<moe>>(x, dy, {.routing = {.shared = false}}) < 2e-5);
  CHECK(distance<fg::shared_experts<moe>>(x, dy, {.routing = {.shared = false}}) < 2e-5);
}

TEST_CASE("the layer reads rows more than 2^31 numbers apart, and nothing behind their ends") {
  far_apart const x(3, D), y(3, D);
  numbers const packed = random_numbers(3 * D, 2);
  layer_of_all l;
  numbers const near = l.forward(packed);
  if (x.view().data && y.view().data) {
    for (int t = 0; t < 3; ++t) std::copy_n(&packed[std::size_t(t * D)], D, x.view().row(t));
    l.run({.tokens = 3}, x.view(), y.view());
    for (int t = 0; t < 3; ++t)
      CHECK(std::equal(y.view().row(t), y.view().row(t) + D, &near[std::size_t(t * D)]));
  }
  guarded from(3, D), to(3, D);
  from = packed;
  l.run({.tokens = 3}, from.view(), to.view());
  CHECK(std::equal(near.begin(), near.end(), to.data()));
}

}  // namespace
