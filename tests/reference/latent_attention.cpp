// The reference's latent attention.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/model/network.hpp>
#include <finegrain/reference/latent_attention.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/gradient_check.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 6;
using straight =
    fg::latent_attention<D, 3, fg::latent{.kv_rank = 5, .nope = 3, .rope = 4, .value = 7}>;
using compressed =
    fg::latent_attention<D, 2,
                         fg::latent{.q_rank = 4,
                                    .kv_rank = 6,
                                    .nope = 5,
                                    .rope = 8,
                                    .value = 3,
                                    .yarn = {.factor = 40, .mscale = 1, .mscale_all = 0.5f}}>;
using places = std::vector<std::int64_t>;

TEMPLATE_TEST_CASE("training and inference agree, though they multiply in another order", "",
                   straight, compressed) {
  layer<TestType> a;
  numbers const x = random_numbers(9 * D, 3);
  places const starts{0, 4, 4, 9};
  CHECK(largest_difference(a.forward(x), a.forward(x, {}, true)) < 1e-13);
  CHECK(largest_difference(a.forward(x, {.starts = starts}),
                           a.forward(x, {.starts = starts}, true)) < 1e-13);
}

TEMPLATE_TEST_CASE("decoding with a cache gives the bits of the whole sequence, in any steps", "",
                   straight, compressed) {
  layer<TestType> a;
  numbers const x = random_numbers(9 * D, 3), whole = a.forward(x);
  for (places const& steps :
       {places{9}, places{1, 1, 1, 1, 1, 1, 1, 1, 1}, places{4, 0, 1, 3, 1}}) {
    fg::kv_cache<double> cache(TestType::cache, 9);
    numbers y;
    for (std::int64_t step : steps)
      y = joined(y, a.forward(rows(x, D, cache.lengths[0], step), {}, false, &cache));
    CHECK(same(y, whole));
  }
}

TEMPLATE_TEST_CASE("sequences do not see one another, and tokens do not see later ones", "",
                   straight, compressed) {
  layer<TestType> a;
  numbers const x = random_numbers(7 * D, 3);
  places const starts{0, 3, 3, 7};
  numbers const y = a.forward(x, {.starts = starts});
  CHECK(same(y, joined(a.forward(rows(x, D, 0, 3)), a.forward(rows(x, D, 3, 4)))));
  CHECK(same(rows(y, D, 0, 2), a.forward(rows(x, D, 0, 2))));
  CHECK_FALSE(same(y, a.forward(x)));
}

TEMPLATE_TEST_CASE("gradients are those of differences, of every matrix and of x", "", straight,
                   compressed) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    fg::network<TestType, fg::reference> net({.deviation = 0.6, .seed = seed});
    numbers const x = random_numbers(8 * D, seed + 5);
    places const starts{0, 5, 8};
    auto const report = fg::check_gradients(net, {.tokens = 8, .starts = starts}, view(x, 8, D),
                                            {.eps = 1e-5, .seed = seed});
    INFO(report.where << ": backward says " << report.gradient << ", differences say "
                      << report.difference);
    CHECK(report.worst < 2e-7);
    CHECK(report.skipped == 0);
  }
}

TEST_CASE("without rotary scaling nothing is slowed; with it, fast pairs turn as ever") {
  fg::rotary const plain{64, 10000.0};
  fg::rotary const published{64, 10000.0, 192, true, fg::presets::deepseek_v3.latent.yarn};
  for (int i = 0; i < 32; ++i) CHECK(plain.slowed(i) == 1);
  CHECK(plain.size() == 1);
  CHECK(plain.sharpness() == 1);
  CHECK(published.size() == 1);
  CHECK(published.sharpness() == Approx(std::pow(0.1 * std::log(40.0) + 1, 2)));
  for (int i = 0; i <= 10; ++i) CHECK(published.slowed(i) == 1);
  for (int i = 23; i < 32; ++i) CHECK(published.slowed(i) == Approx(1 / 40.0));
  for (int i = 11; i < 23; ++i)
    CHECK(published.slowed(i) == Approx(1 - (i - 10) / 13.0 * (1 - 1 / 40.0)));
}

TEST_CASE("rotary positions of neighbours turn the pair (2i, 2i + 1) of a head's last numbers") {
  numbers m{5, 1, 0, 10, 0, 6, 2, 0, 20, 0};  // two heads of five numbers, four of them turned
  std::int64_t const past = 1;
  rotate(on, {.tokens = 1}, {{&past, 1}}, {4, 10000.0, 5, true}, view(m, 1, 10));
  CHECK(m[0] == 5);
  CHECK(m[1] == Approx(std::cos(1)));
  CHECK(m[2] == Approx(std::sin(1)));
  CHECK(m[3] == Approx(10 * std::cos(0.01)));
  CHECK(m[4] == Approx(10 * std::sin(0.01)));
  CHECK(m[5] == 6);
  CHECK(m[6] == Approx(2 * std::cos(1)));
  CHECK(m[9] == Approx(20 * std::sin(0.01)));
}

TEST_CASE("latent attention over no tokens has gradients of 0") {
  layer<compressed> a;
  CHECK(a.train({}, {}).empty());
  for (double g : a.all_gradients()) CHECK(g == 0);
}

}  // namespace
