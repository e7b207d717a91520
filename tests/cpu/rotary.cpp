// Rotary positions on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/rotary.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("sine and cosine of quarter turns are right to two units in the last place") {
  double worst = 0;
  auto check = [&](double quarters) {
    float sine = poison, cosine = poison;
    fg::simd::sine_cosine(quarters, sine, cosine);
    double const exact[] = {std::sin(quarters * 1.5707963267948966),
                            std::cos(quarters * 1.5707963267948966)};
    worst =
        std::max({worst, std::abs(double(sine) - exact[0]), std::abs(double(cosine) - exact[1])});
  };
  for (int i = -8000; i <= 8000; ++i) check(i / 1000.0);
  for (int i = 0; i < 1000; ++i) check(1e6 * fg::random_uniform(1, static_cast<std::uint64_t>(i)));
  CHECK(worst < 1.3e-7);
  float const expected[4][2] = {{0, 1}, {1, 0}, {0, -1}, {-1, 0}};
  for (int i = -8; i < 8; ++i) {
    float sine = poison, cosine = poison;
    fg::simd::sine_cosine(i, sine, cosine);
    CHECK(sine == expected[(i + 8) % 4][0]);
    CHECK(cosine == expected[(i + 8) % 4][1]);
  }
}

TEST_CASE("rotate turns the pairs of every head by position * theta^(-2i/dim)") {
  for (int const dim : {2, 12, 34, 300}) {
    std::vector<std::int64_t> const starts{0, 8, 8, 70};
    fg::batch const b{.tokens = 70, .starts = starts};
    numbers const before = random_numbers(70 * 2 * dim, 1);
    numbers m = before;
    std::vector<std::int64_t> const past{100000, 5, 70};
    rotate(fg::cpu(), b, {past}, {dim, 10000.0}, view(m, 70, 2 * dim));
    double worst = 0;
    for (std::int64_t t = 0; t < 70; ++t)
      for (int i = 0; i < 2 * dim; ++i) {
        if (i % dim >= dim / 2) continue;
        double const angle = double(t < 8 ? past[0] + t : past[2] + t - 8) *
                             std::pow(10000.0, -2.0 * (i % dim) / dim);
        auto const at = static_cast<std::size_t>(t * 2 * dim + i),
                   other = at + std::size_t(dim / 2);
        double const u = before[at], v = before[other], c = std::cos(angle), s = std::sin(angle);
        worst = std::max(
            {worst, std::abs(m[at] - (u * c - v * s)), std::abs(m[other] - (u * s + v * c))});
      }
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("two matrices at once are turned as one by one, and unrotate undoes it") {
  std::vector<std::int64_t> const starts{0, 8, 90};
  fg::batch const b{.tokens = 90, .starts = starts};
  std::vector<std::int64_t> const past{3, 3};
  numbers const before = random_numbers(90 * 24, 1), other = random_numbers(90 * 12, 2);
  numbers q = before, k = other, both_q = before, both_k = other;
  rotate(fg::cpu(), b, {past}, {12, 10000.0}, view(q, 90, 24));
  rotate(fg::cpu(), b, {past}, {12, 10000.0}, view(k, 90, 12));
  fg::simd::turn(fg::cpu(), b, {past}, {12, 10000.0}, 1, view(both_q, 90, 24),
                 view(both_k, 90, 12));
  CHECK(same(q, both_q));
  CHECK(same(k, both_k));
  CHECK(!same(q, before));
  q = before;
  rotate(fg::cpu(), b, {}, {12, 10000.0}, view(q, 90, 24));
  unrotate(fg::cpu(), b, {12, 10000.0}, view(q, 90, 24));
  for (std::size_t i = 0; i < q.size(); ++i) CHECK(std::abs(q[i] - before[i]) < 1e-5f);
}

}  // namespace
