// Latent attention on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/latent_attention.hpp>
#include <finegrain/reference/latent_attention.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 37;
using straight =
    fg::latent_attention<D, 3, fg::latent{.kv_rank = 21, .nope = 11, .rope = 6, .value = 13}>;
using compressed =
    fg::latent_attention<D, 5,
                         fg::latent{.q_rank = 19,
                                    .kv_rank = 40,
                                    .nope = 16,
                                    .rope = 10,
                                    .value = 9,
                                    .yarn = {.factor = 40, .mscale = 1, .mscale_all = 0.5f}}>;
/// More latent numbers than are averaged at a time, more pairs than are turned at a time.
using wide =
    fg::latent_attention<D, 2, fg::latent{.kv_rank = 530, .nope = 3, .rope = 140, .value = 270}>;

/// How far a pass without a gradient is from the specification's training pass.
template <class E>
double apart(numbers const& x, fg::batch const& b = {}) {
  layer<E> fast;
  exact_layer<E> exact;
  fast.forward(x, b);
  return difference(exact.forward(x, b, true), fast.y);
}

TEMPLATE_TEST_CASE("latent attention agrees with the specification, values and gradients", "",
                   straight, compressed, wide) {
  double const bound = std::is_same_v<TestType, wide> ? 4e-5 : 1e-5;  // long sums round more
  std::vector<std::int64_t> const starts{0, 3, 3, 70, 71, 150};
  for (std::int64_t T : {1, 7, 150}) {
    numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
    CHECK(distance<TestType>(x, dy) < bound);
    CHECK(apart<TestType>(x) < bound);
    if (T < 150) continue;
    CHECK(distance<TestType>(x, dy, {.starts = starts}) < bound);
    CHECK(apart<TestType>(x, {.starts = starts}) < bound);
  }
}

TEMPLATE_TEST_CASE("latent attention keeps sequences apart, empty ones too", "", straight,
                   compressed) {
  std::vector<std::int64_t> const starts{0, 3, 3, 70, 71, 150};
  numbers const x = random_numbers(150 * D, 2);
  layer<TestType> all, one;
  all.forward(x, {.starts = starts});
  numbers y;
  for (std::size_t s = 0; s + 1 < starts.size(); ++s)
    y = joined(y, one.forward(rows(x, D, starts[s], starts[s + 1] - starts[s])));
  CHECK(same(all.y, y));
}

TEMPLATE_TEST_CASE("token by token with a cache, latent attention gives the bits of one pass", "",
                   straight, compressed, wide) {
  numbers const x = random_numbers(150 * D, 2);
  layer<TestType> whole, step;
  whole.forward(x);
  fg::kv_cache<float> cache(TestType::cache, 150);
  std::fill(cache.numbers.begin(), cache.numbers.end(), poison);
  numbers y;
  for (auto [first, count] : {std::pair{0, 1}, {1, 63}, {64, 1}, {65, 30}})
    y = joined(y, step.forward(rows(x, D, first, count), {}, false, &cache));
  for (int t = 95; t < 150; ++t) y = joined(y, step.forward(rows(x, D, t, 1), {}, false, &cache));
  CHECK(same(whole.y, y));
}

TEMPLATE_TEST_CASE("latent attention gives the same bits for any number of threads", "", straight,
                   compressed) {
  std::vector<std::int64_t> const starts{0, 33, 130};
  fg::batch const b{.starts = starts};
  numbers const x = random_numbers(130 * D, 2), dy = random_numbers(130 * D, 3);
  layer<TestType> one(fg::cpu(fg::parallel{}));
  one.train(x, dy, b);
  numbers const trained = one.y, alone = one.forward(rows(x, D, 0, 1));
  one.forward(x, b);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<TestType> many{fg::cpu(pool)};
    many.train(x, dy, b);
    CHECK(same(trained, many.y));
    CHECK(same(one.dx, many.dx));
    CHECK(same(one.all_gradients(), many.all_gradients()));
    CHECK(same(one.y, many.forward(x, b)));
    CHECK(same(alone, many.forward(rows(x, D, 0, 1))));
  }
}

TEST_CASE("what is not a number reaches later tokens only, through latent attention too") {
  numbers x = random_numbers(150 * D, 2);
  layer<straight> a;
  numbers const clean = a.forward(x);
  for (float const bad : {poison, infinity}) {
    x[100 * D + 5] = bad;
    a.forward(x);
    CHECK(same(rows(a.y, D, 0, 100), rows(clean, D, 0, 100)));
    CHECK(std::isnan(a.y[149 * D]));
  }
}

TEST_CASE("gradients of latent attention are added where that is asked for") {
  numbers const x = random_numbers(40 * D, 2), dy = random_numbers(40 * D, 3);
  layer<compressed> fresh, added;
  fresh.train(x, dy);
  added.mode = fg::gradients::accumulate;
  added.before = 1;
  added.train(x, dy);
  auto const a = fresh.all_gradients(), b = added.all_gradients();
  double worst = 0, most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, double(std::abs(a[i] + 1 - b[i])));
    most = std::max(most, double(std::abs(a[i])));
  }
  CHECK(worst < 1e-6 * most);
  CHECK(same(fresh.dx, added.dx));
}

TEST_CASE("products in bf16 are near") {
  numbers const x = random_numbers(60 * D, 2), dy = random_numbers(60 * D, 3);
  fg::cpu const mixed{fg::parallel{}, fg::format::bf16};
  double const off = distance<compressed>(x, dy, {}, mixed);
  CHECK(off < 0.05);
  CHECK(off > 1e-5);
  layer<compressed> rounded(mixed), exact;
  numbers const y = exact.forward(x);
  double const apart = difference({y.begin(), y.end()}, rounded.forward(x));
  CHECK(apart < 0.05);
  CHECK(apart > 1e-5);
}

TEST_CASE("a pass without a gradient keeps no keys and values") {
  constexpr auto saved = [](bool training) {
    return fg::saved_bytes<fg::cpu, compressed>({.tokens = 64, .training = training});
  };
  STATIC_REQUIRE(saved(true) - saved(false) == 64 * 4 * 5 * (26 + 9));
}

TEST_CASE("queries of several heads that share their keys read nothing behind them") {
  int const T = 67, dim = 7, value = 5, heads = 3;
  guarded q(T, heads * dim), k(T, dim), v(T, value), mixed(T, heads * value), sums(T, heads);
  q = random_numbers(T * heads * dim, 4), k = random_numbers(T * dim, 5);
  v = random_numbers(T * value, 6);
  fg::batch const b{.tokens = T};
  attend_forward(fg::cpu(), {heads, 1, dim, value}, b, {}, q.view(), k.view(), v.view(),
                 mixed.view(), sums.view());
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < value; ++i) CHECK(mixed.view()(0, h * value + i) == v.view()(0, i));
}

TEST_CASE("heads that share their keys have the bits of each alone") {
  int const T = 70, dim = 12, value = 9, heads = 3;
  numbers const q = random_numbers(T * heads * dim, 4), k = random_numbers(T * dim, 5),
                v = random_numbers(T * value, 6);
  numbers mixed(std::size_t(T * heads * value), poison), sums(std::size_t(T * heads), poison);
  std::vector<std::int64_t> const starts{0, 5, 5, 70};
  fg::batch const b{.tokens = T, .starts = starts};
  attend_forward(fg::cpu(), {heads, 1, dim, value}, b, {}, view(q, T, heads * dim), view(k, T, dim),
                 view(v, T, value), view(mixed, T, heads * value), view(sums, T, heads));
  for (int h = 0; h < heads; ++h) {
    numbers one(std::size_t(T * value), poison), sum(std::size_t(T), poison);
    attend_forward(fg::cpu(), {1, 1, dim, value}, b, {},
                   view(q, T, heads * dim).middle_cols(h * dim, dim), view(k, T, dim),
                   view(v, T, value), view(one, T, value), view(sum, T, 1));
    for (int t = 0; t < T; ++t) {
      CHECK(same(rows(mixed, value, t * heads + h, 1), rows(one, value, t, 1)));
      CHECK(sums[std::size_t(t * heads + h)] == sum[std::size_t(t)]);
    }
  }
}

}  // namespace
