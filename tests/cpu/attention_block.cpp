// residual(rmsnorm | attention) on the cpu: one plan, equal to the composed one bit by bit.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/attention_block.hpp>
#include <finegrain/plan/explain.hpp>
#include <finegrain/reference/attention.hpp>
#include <finegrain/reference/linear.hpp>
#include <finegrain/reference/norm.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

/// The pattern, and the same with the norm under a name, which hides it.
template <int D>
struct hidden_norm : fg::named {
  static constexpr auto expr = fg::rmsnorm<D>{};
};
template <int D, int Heads, int KvHeads, int Dim, fg::attention_form Form = fg::attention_form{}>
using fused =
    decltype(fg::residual(fg::rmsnorm<D>{} | fg::attention<D, Heads, KvHeads, Dim, Form>{}));
template <int D, int Heads, int KvHeads, int Dim, fg::attention_form Form = fg::attention_form{}>
using composed =
    decltype(fg::residual(hidden_norm<D>{} | fg::attention<D, Heads, KvHeads, Dim, Form>{}));

/// Forms of published models, and all at once.
constexpr fg::attention_form biased{.bias = true, .theta = 1e6},
    each{.norm = fg::head_norm::each, .theta = 1e6, .epsilon = 1e-2},
    whole{.norm = fg::head_norm::all, .epsilon = 1e-5}, neighbours{.adjacent = true, .theta = 5e5},
    everything{.bias = true,
               .norm = fg::head_norm::each,
               .rotary = 6,
               .theta = 500,
               .epsilon = 1e-3,
               .scale = 0.125,
               .yarn = {.factor = 4, .original = 64, .fast = 8, .slow = 2, .mscale_all = 0.5f}};

/// What attention makes times a factor.
template <int D, int Heads, int KvHeads, int Dim, fg::attention_form Form = fg::attention_form{}>
using fused_times = decltype(fg::residual(
    fg::rmsnorm<D>{} | fg::attention<D, Heads, KvHeads, Dim, Form>{} | fg::times<D, 0.22>{}));
template <int D, int Heads, int KvHeads, int Dim, fg::attention_form Form = fg::attention_form{}>
using composed_times = decltype(fg::residual(
    hidden_norm<D>{} | fg::attention<D, Heads, KvHeads, Dim, Form>{} | fg::times<D, 0.22>{}));

using grouped = fused<40, 4, 2, 12>;  // small weights: 3 blocks of rows and more are tasks alone
static_assert(40 * 12 * (4 + 2 + 2) < fg::simd::small_weights);
using large = fused<150, 21, 7, 26>;
static_assert(150 * 26 * (21 + 7 + 7) > fg::simd::small_weights);

template <class A, class B>
void check_same(A const& a, B const& b) {
  CHECK(same(a.y, b.y));
  CHECK(same(a.dx, b.dx));
  CHECK(same(a.all_gradients(), b.all_gradients()));
}

template <class One, class Two>
void check_plans(std::int64_t T, fg::batch const& b) {
  layer<One> one;
  layer<Two> two;
  numbers const x = random_numbers(T * one.in, 2), dy = random_numbers(T * one.in, 3);
  check_same(one.train(x, dy, b), two.train(x, dy, b));
  CHECK(same(one.forward(x, b), two.forward(x, b)));
  one.mode = two.mode = fg::gradients::accumulate;
  one.before = two.before = 1;
  check_same(one.train(x, dy, b), two.train(x, dy, b));
}
template <int D, int Heads, int KvHeads, int Dim, fg::attention_form Form = fg::attention_form{}>
void check_composed(std::int64_t T, fg::batch const& b = {}) {
  check_plans<fused<D, Heads, KvHeads, Dim, Form>, composed<D, Heads, KvHeads, Dim, Form>>(T, b);
  check_plans<fused_times<D, Heads, KvHeads, Dim, Form>,
              composed_times<D, Heads, KvHeads, Dim, Form>>(T, b);
}

TEST_CASE("the fused block gives the composed plan's bits, forward and backward") {
  for (std::int64_t T : {0, 1, 7, 97, 300}) check_composed<40, 4, 2, 12>(T);
  for (std::int64_t T : {0, 1, 100}) check_composed<150, 21, 7, 26>(T);
  check_composed<5, 1, 1, 2>(290);
  check_composed<24, 3, 1, 34>(300);
  check_composed<130, 1, 1, 200>(500);
  check_composed<600, 3, 3, 6>(70);
}

TEST_CASE("with biases, norms of heads and other positions, too") {
  std::vector<std::int64_t> const starts{0, 3, 3, 170, 171, 300};
  fg::batch const b{.starts = starts};
  check_composed<40, 4, 2, 12, biased>(300, b);
  check_composed<40, 4, 2, 12, each>(300, b);
  check_composed<40, 4, 2, 12, whole>(300, b);
  check_composed<40, 4, 2, 12, everything>(300, b);
  check_composed<150, 21, 7, 26, biased>(100);
  check_composed<40, 4, 2, 12, neighbours>(300, b);
  check_composed<150, 21, 7, 26, neighbours>(100);
  check_composed<150, 21, 7, 26, whole>(100);
  check_composed<150, 21, 7, 26, everything>(100);
  check_composed<40, 4, 2, 12, everything>(0);
  check_composed<40, 4, 2, 12, everything>(1);
}

TEST_CASE("the fused block keeps sequences apart, and takes positions as given") {
  std::vector<std::int64_t> const starts{0, 3, 3, 170, 171, 320};
  check_composed<40, 4, 2, 12>(320, {.starts = starts});
  check_composed<150, 21, 7, 26>(320, {.starts = starts});
  std::vector<std::int64_t> positions;
  for (std::int64_t t = 0; t < 320; ++t) positions.push_back(t * 7 % 100);
  check_composed<40, 4, 2, 12>(320, {.starts = starts, .positions = positions});
}

TEST_CASE("the fused block agrees with the specification") {
  std::vector<std::int64_t> const starts{0, 3, 170, 300};
  numbers const x = random_numbers(300 * 40, 2), dy = random_numbers(300 * 40, 3);
  CHECK(distance<grouped>(x, dy) < 4e-6);
  CHECK(distance<grouped>(x, dy, {.starts = starts}) < 4e-6);
  CHECK(distance<fused<100, 30, 10, 28>>(random_numbers(20 * 100, 2), random_numbers(20 * 100, 3)) <
        4e-6);
  CHECK(distance<fused<40, 4, 2, 12, biased>>(x, dy, {.starts = starts}) < 4e-6);
  CHECK(distance<fused<40, 4, 2, 12, neighbours>>(x, dy, {.starts = starts}) < 4e-6);
  CHECK(distance<fused<40, 4, 2, 12, each>>(x, dy, {.starts = starts}) < 1e-5);
  CHECK(distance<fused<40, 4, 2, 12, whole>>(x, dy, {.starts = starts}) < 1e-5);
  CHECK(distance<fused<40, 4, 2, 12, everything>>(x, dy, {.starts = starts}) < 1e-5);
  CHECK(distance<fused_times<40, 4, 2, 12, everything>>(x, dy, {.starts = starts}) < 1e-5);
}

TEST_CASE("the fused block gives the same bits for any number of threads") {
  auto check = []<class E>(std::int64_t T, layer<E> one) {
    std::vector<std::int64_t> const starts{0, 33, T};
    fg::batch const b{.starts = starts};
    numbers const x = random_numbers(T * one.in, 2), dy = random_numbers(T * one.in, 3);
    one.train(x, dy, b);
    for (int workers : {2, 3, 8}) {
      fg::thread_pool pool(workers);
      layer<E> many{fg::cpu(pool)};
      check_same(one, many.train(x, dy, b));
    }
  };
  check(400, layer<grouped>(fg::cpu(fg::parallel{})));
  check(400, layer<fused<40, 4, 2, 12, everything>>(fg::cpu(fg::parallel{})));
  check(200, layer<fused<150, 21, 7, 26, everything>>(fg::cpu(fg::parallel{})));
  check(200, layer<large>(fg::cpu(fg::parallel{})));
}

TEST_CASE("token by token with a cache, the fused block gives the bits of the whole sequence") {
  auto check = []<class E>(layer<E> whole) {
    constexpr int D = layer<E>::in;
    numbers const x = random_numbers(350 * D, 2);
    layer<E> step;
    whole.forward(x);
    constexpr int width = fg::cache_width(E{});
    fg::kv_cache<float> cache(width, 350);
    std::fill(cache.numbers.begin(), cache.numbers.end(), poison);
    numbers y;
    for (auto [first, count] : {std::pair{0, 1}, {1, 30}, {31, 300}, {331, 1}, {332, 1}, {333, 17}})
      y = joined(y, step.forward(rows(x, D, first, count), {}, false, &cache));
    CHECK(same(whole.y, y));
  };
  check(layer<grouped>());
  check(layer<large>());
  check(layer<fused<40, 4, 2, 12, everything>>());
  check(layer<fused<40, 4, 2, 12, whole>>());
  check(layer<fused_times<40, 4, 2, 12, everything>>());
  check(layer<fused<150, 21, 7, 26, everything>>());
}

TEST_CASE("in the fused block what is not a number reaches later tokens of its sequence only") {
  numbers x = random_numbers(300 * 40, 2);
  layer<grouped> a;
  numbers const clean = a.forward(x);
  for (float const bad : {poison, infinity}) {
    x[200 * 40 + 5] = bad;
    a.forward(x);
    CHECK(same(rows(a.y, 40, 0, 200), rows(clean, 40, 0, 200)));
    CHECK(std::isnan(a.y[299 * 40]));
  }
}

TEST_CASE("the fused block reads rows far apart, and nothing behind their ends") {
  auto check = []<class E>(layer<E> l, std::int64_t T) {
    constexpr int D = layer<E>::in;
    numbers const packed = random_numbers(T * D, 2);
    numbers const near = l.forward(packed);
    guarded x(T, D), y(T, D);
    x = packed;
    l.run({.tokens = T}, x.view(), y.view());
    CHECK(std::equal(near.begin(), near.end(), y.data()));
    if (T > 3) return;
    far_apart const from(T, D), to(T, D);
    if (!from.view().data || !to.view().data) return;
    for (std::int64_t t = 0; t < T; ++t)
      std::copy_n(&packed[std::size_t(t * D)], D, from.view().row(t));
    l.run({.tokens = T}, from.view(), to.view());
    for (std::int64_t t = 0; t < T; ++t)
      CHECK(std::equal(to.view().row(t), to.view().row(t) + D, &near[std::size_t(t * D)]));
  };
  check(layer<grouped>(), 3);
  check(layer<grouped>(), 290);
  check(layer<large>(), 3);
}

TEST_CASE("explain shows the block as fused, and it needs no more memory than the composed one") {
  CHECK_THAT((fg::explain<grouped, fg::cpu>(64)), ContainsSubstring("residual     fused"));
  CHECK_THAT((fg::explain<fused_times<40, 4, 2, 12>, fg::cpu>(64)),
             ContainsSubstring("residual     fused"));
  auto const check = []<class One, class Apart>(One, Apart) {
    for (bool const training : {false, true}) {
      fg::extent const e{123, 2, training};
      CHECK(fg::saved_bytes<fg::cpu, One>(e) == fg::saved_bytes<fg::cpu, Apart>(e));
      CHECK(fg::scratch_bytes<fg::cpu, One>(e) == fg::scratch_bytes<fg::cpu, Apart>(e));
    }
  };
  check(grouped{}, composed<40, 4, 2, 12>{});
  check(fused<40, 4, 2, 12, whole>{}, composed<40, 4, 2, 12, whole>{});
  check(fused<40, 4, 2, 12, everything>{}, composed<40, 4, 2, 12, everything>{});
  check(fused_times<40, 4, 2, 12>{}, composed_times<40, 4, 2, 12>{});
}

}  // namespace
