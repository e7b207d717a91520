// Attention on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>  // declares the kernels that are apart
#include <finegrain/reference/attention.hpp>
#include <finegrain/reference/linear.hpp>
#include <finegrain/reference/norm.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using grouped = fg::attention<40, 4, 2, 12>;
using formed = fg::attention<40, 4, 2, 12,
                             fg::attention_form{.bias = true,
                                                .norm = fg::head_norm::each,
                                                .rotary = 10,
                                                .theta = 1e6,
                                                .epsilon = 1e-3,
                                                .yarn = {.factor = 8, .original = 32}}>;
using normed_whole = fg::attention<40, 4, 2, 12, fg::attention_form{.norm = fg::head_norm::all}>;

TEST_CASE("attention agrees with the specification, values and gradients") {
  CHECK(distance<grouped>(random_numbers(200 * 40, 2), random_numbers(200 * 40, 3)) < 4e-6);
  CHECK(distance<grouped>(random_numbers(7 * 40, 2), random_numbers(7 * 40, 3)) < 4e-6);
  CHECK(distance<fg::attention<24, 3, 1, 34>>(random_numbers(70 * 24, 2),
                                              random_numbers(70 * 24, 3)) < 4e-6);
  CHECK(distance<fg::attention<8, 1, 1, 300>>(random_numbers(70 * 8, 2),
                                              random_numbers(70 * 8, 3)) < 4e-6);
  CHECK(distance<formed>(random_numbers(200 * 40, 2), random_numbers(200 * 40, 3)) < 1e-5);
  CHECK(distance<normed_whole>(random_numbers(200 * 40, 2), random_numbers(200 * 40, 3)) < 1e-5);
}

TEST_CASE("attention keeps sequences apart, empty ones too") {
  std::vector<std::int64_t> const starts{0, 3, 3, 70, 71, 150};
  fg::batch const b{.starts = starts};
  numbers const x = random_numbers(150 * 40, 2);
  CHECK(distance<grouped>(x, random_numbers(150 * 40, 3), b) < 4e-6);
  layer<grouped> all, one;
  all.forward(x, b);
  numbers y;
  for (std::size_t s = 0; s + 1 < starts.size(); ++s)
    y = joined(y, one.forward(rows(x, 40, starts[s], starts[s + 1] - starts[s])));
  CHECK(same(all.y, y));
}

TEMPLATE_TEST_CASE("token by token with a cache, attention gives the bits of the whole sequence",
                   "", grouped, formed, normed_whole) {
  numbers const x = random_numbers(150 * 40, 2);
  layer<TestType> whole, step;
  whole.forward(x);
  fg::kv_cache<float> cache(TestType::cache, 150);
  numbers y;
  for (auto [first, count] : {std::pair{0, 1}, {1, 63}, {64, 1}, {65, 30}})
    y = joined(y, step.forward(rows(x, 40, first, count), {}, false, &cache));
  for (int t = 95; t < 150; ++t) y = joined(y, step.forward(rows(x, 40, t, 1), {}, false, &cache));
  CHECK(same(whole.y, y));
}

TEST_CASE("what is not a number reaches later tokens of its sequence only") {
  numbers x = random_numbers(150 * 40, 2);
  layer<grouped> a;
  numbers const clean = a.forward(x);
  for (float const bad : {poison, infinity}) {
    x[100 * 40 + 5] = bad;
    a.forward(x);
    CHECK(same(rows(a.y, 40, 0, 100), rows(clean, 40, 0, 100)));
    CHECK(std::isnan(a.y[149 * 40]));
  }
}

TEST_CASE("attention gives the same bits for any number of threads") {
  std::vector<std::int64_t> const starts{0, 33, 130};
  fg::batch const b{.starts = starts};
  numbers const x = random_numbers(130 * 40, 2), dy = random_numbers(130 * 40, 3);
  layer<grouped> one(fg::cpu(fg::parallel{}));
  one.train(x, dy, b);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<grouped> many{fg::cpu(pool)};
    many.train(x, dy, b);
    CHECK(same(one.y, many.y));
    CHECK(same(one.dx, many.dx));
    CHECK(same(one.all_gradients(), many.all_gradients()));
  }
}

TEST_CASE("attention reads nothing behind its keys and values") {
  int const T = 67, dim = 6;
  guarded q(T, dim), k(T, dim), v(T, dim), mixed(T, dim), sums(T, 1);
  guarded dmixed(T, dim), dq(T, dim), dk(T, dim), dv(T, dim);
  for (auto* m : {&q, &k, &v, &dmixed}) *m = random_numbers(T * dim, 4);
  fg::batch const b{.tokens = T};
  fg::heads const shape{1, 1, dim};
  attend_forward(fg::cpu(), shape, b, {}, q.view(), k.view(), v.view(), mixed.view(), sums.view());
  attend_backward(fg::cpu(), shape, b, q.view(), k.view(), v.view(), mixed.view(), sums.view(),
                  dmixed.view(), dq.view(), dk.view(), dv.view());
  for (int i = 0; i < dim; ++i) CHECK(mixed.view()(0, i) == v.view()(0, i));
}

}  // namespace
