// The reference's attention.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/stages.hpp>
#include <finegrain/reference/attention.hpp>
#include <finegrain/reference/linear.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 6;
using stage = fg::attention<D, 4, 2, 4>;
using places = std::vector<std::int64_t>;

numbers slice(numbers const& y, std::int64_t first, std::int64_t count) {
  return rows(y, D, first, count);
}

TEST_CASE("the first token of a sequence attends to itself alone") {
  layer<stage> a;
  numbers const x = random_numbers(2 * D, 3);
  numbers v(2 * 8), expanded(2 * 16), y(2 * D);
  linear_forward(on, view(x, 2, D), a.weights().value, view(v, 2, 8));
  for (int t = 0; t < 2; ++t)
    for (int h = 0; h < 4; ++h)
      for (int i = 0; i < 4; ++i)
        expanded[std::size_t(t * 16 + h * 4 + i)] = v[std::size_t(t * 8 + h / 2 * 4 + i)];
  linear_forward(on, view(expanded, 2, 16), a.weights().output, view(y, 2, D));
  places const starts{0, 1, 2};
  CHECK(same(a.forward(x, {.starts = starts}), y));
}

TEST_CASE("sequences do not see one another, and tokens do not see later ones") {
  layer<stage> a;
  numbers const x = random_numbers(7 * D, 3);
  places const starts{0, 3, 3, 7};
  numbers const y = a.forward(x, {.starts = starts});
  CHECK(same(y, joined(a.forward(slice(x, 0, 3)), a.forward(slice(x, 3, 4)))));
  CHECK(same(slice(y, 0, 2), a.forward(slice(x, 0, 2))));
  CHECK_FALSE(same(y, a.forward(x)));
}

TEST_CASE("gradients of sequences are those of each alone, added") {
  layer<stage> a, b;
  numbers const x = random_numbers(5 * D, 3), dy = random_numbers(5 * D, 4);
  places const starts{0, 2, 5};
  a.train(x, dy, {.starts = starts});
  b.train(slice(x, 0, 2), slice(dy, 0, 2));
  CHECK(same(slice(a.dx, 0, 2), b.dx));
  numbers sum = b.all_gradients();
  b.train(slice(x, 2, 3), slice(dy, 2, 3));
  CHECK(same(slice(a.dx, 2, 3), b.dx));
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b.all_gradients()[i];
  CHECK(largest_difference(sum, a.all_gradients()) < 1e-12);
}

TEST_CASE("decoding with a cache gives the bits of the whole sequence, in steps of any size") {
  layer<stage> a;
  numbers const x = random_numbers(9 * D, 3), whole = a.forward(x);
  for (places const& steps :
       {places{9}, places{1, 1, 1, 1, 1, 1, 1, 1, 1}, places{4, 0, 1, 3, 1}}) {
    fg::kv_cache<double> cache(stage::cache, 9);
    numbers y;
    for (std::int64_t step : steps)
      y = joined(y, a.forward(slice(x, cache.lengths[0], step), {}, false, &cache));
    CHECK(same(y, whole));
  }
}

TEST_CASE("rotary positions: a score depends on how far apart query and key are") {
  numbers const q = random_numbers(8, 1), k = random_numbers(8, 2);
  auto score = [&](std::int64_t query_at, std::int64_t key_at) {
    numbers a = q, b = k;
    rotate(on, {.tokens = 1}, {{&query_at, 1}}, {8, 10000.0}, view(a, 1, 8));
    rotate(on, {.tokens = 1}, {{&key_at, 1}}, {8, 10000.0}, view(b, 1, 8));
    return fg::spec::dot(a.data(), b.data(), 8);
  };
  for (std::int64_t distance : {0, 1, 5, 100})
    for (std::int64_t at : {1, 17, 1000})
      CHECK(score(at + distance, at) == Approx(score(distance, 0)).epsilon(1e-9));
  CHECK(std::abs(score(1, 0) - score(2, 0)) > 1e-3);
}

TEST_CASE("rotary positions turn the pair (i, i + dim/2), the first by one radian a position") {
  numbers m{1, 10, 0, 0, 2, 20, 0, 0};  // two heads of four numbers
  std::int64_t const past = 1;
  rotate(on, {.tokens = 1}, {{&past, 1}}, {4, 10000.0}, view(m, 1, 8));
  CHECK(m[0] == Approx(std::cos(1)));
  CHECK(m[2] == Approx(std::sin(1)));
  CHECK(m[1] == Approx(10 * std::cos(0.01)));
  CHECK(m[3] == Approx(10 * std::sin(0.01)));
  CHECK(m[4] == Approx(2 * std::cos(1)));
  CHECK(m[7] == Approx(20 * std::sin(0.01)));
}

TEST_CASE("unrotate undoes rotate, in every sequence") {
  numbers const x = random_numbers(5 * 8, 1);
  numbers m = x;
  places const starts{0, 2, 5};
  fg::batch const b{.tokens = 5, .starts = starts};
  rotate(on, b, {}, {4, 10000.0}, view(m, 5, 8));
  CHECK(same(rows(m, 8, 2, 1), rows(x, 8, 2, 1)));  // a sequence starts at position 0
  CHECK(largest_difference(rows(m, 8, 1, 1), rows(x, 8, 1, 1)) > 0.1);
  unrotate(on, b, {4, 10000.0}, view(m, 5, 8));
  CHECK(largest_difference(m, x) < 1e-14);
}

TEST_CASE("heads that share keys and values equal heads with copies of them") {
  layer<fg::attention<D, 4, 2, 2>> shared;
  layer<fg::attention<D, 4, 4, 2>> copied;
  auto const from = shared.weights();
  auto const to = copied.weights();
  for (int c = 0; c < D; ++c)
    for (int h = 0; h < 4; ++h)
      for (int i = 0; i < 2; ++i) {
        to.query(2 * h + i, c) = from.query(2 * h + i, c);
        to.output(c, 2 * h + i) = from.output(c, 2 * h + i);
        to.key(2 * h + i, c) = from.key(h / 2 * 2 + i, c);
        to.value(2 * h + i, c) = from.value(h / 2 * 2 + i, c);
      }
  numbers const x = random_numbers(5 * D, 3);
  CHECK(same(shared.forward(x), copied.forward(x)));
}

TEST_CASE("equal keys average the values; log_weight is the log of the sum of exponentials") {
  numbers const q{1, 2, 1, 2}, k{3, 1, 3, 1}, v{10, 20, 30, 40};
  numbers mixed(4, poison), log_weight(2, poison);
  attend_forward(on, {1, 1, 2}, {.tokens = 2}, {}, view(q, 2, 2), view(k, 2, 2), view(v, 2, 2),
                 view(mixed, 2, 2), view(log_weight, 2, 1));
  CHECK(mixed == numbers{10, 20, 20, 30});
  CHECK(log_weight[0] == Approx(5 / std::sqrt(2)));
  CHECK(log_weight[1] == Approx(5 / std::sqrt(2) + std::log(2)));
}

TEST_CASE("huge scores do not overflow") {
  numbers const q{1e6, 1e6}, k{-1e6, 1e6}, v{1, 2};
  numbers mixed(2, poison), log_weight(2, poison);
  attend_forward(on, {1, 1, 1}, {.tokens = 2}, {}, view(q, 2, 1), view(k, 2, 1), view(v, 2, 1),
                 view(mixed, 2, 1), view(log_weight, 2, 1));
  CHECK(mixed == numbers{1, 2});
  CHECK(log_weight == numbers{-1e12, 1e12});
}

TEST_CASE("attention over no tokens has gradients of 0") {
  layer<stage> a;
  CHECK(a.train({}, {}).empty());
  for (double g : a.all_gradients()) CHECK(g == 0);
}

}  // namespace
