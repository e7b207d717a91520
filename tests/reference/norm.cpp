// The reference's RMS norm.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/stages.hpp>
#include <finegrain/reference/norm.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 5;

TEST_CASE("a normed row has a mean square of 1, times the gain") {
  layer<fg::rmsnorm<D>> norm;
  norm.w.assign(norm.w.size(), 3);
  numbers const y = norm.forward(random_numbers(4 * D, 2));
  for (int t = 0; t < 4; ++t) {
    double square = 0;
    for (int d = 0; d < D; ++d) square += y[std::size_t(t * D + d)] * y[std::size_t(t * D + d)] / D;
    CHECK(square == Approx(9).epsilon(1e-4));
  }
}

TEST_CASE("a norm of numbers that can be worked out by hand") {
  numbers const x{3, 4}, gain{2, -1};
  numbers y(2), r(1);
  rmsnorm_forward(on, view(x, 1, 2), view(gain, 1, 2), 0.0, view(y, 1, 2), r.data());
  CHECK(r[0] == Approx(1 / std::sqrt(12.5)));
  CHECK(y[0] == Approx(6 / std::sqrt(12.5)));
  CHECK(y[1] == Approx(-4 / std::sqrt(12.5)));
}

TEST_CASE("a row of zeros is normed to zeros, and so is its way back finite") {
  layer<fg::rmsnorm<D>> norm;
  CHECK(norm.train(numbers(D, 0), numbers(D, 1)) == numbers(D, 0));
  for (double g : norm.dx) CHECK(std::isfinite(g));
  CHECK(norm.all_gradients() == numbers(D, 0));
}

TEST_CASE("what a norm multiplies by stays finite, and a NaN stays in its row") {
  layer<fg::rmsnorm<D>> norm;
  numbers const x = random_numbers(3 * D, 3);
  numbers spoilt = x;
  spoilt[D + 2] = poison;
  numbers const y = norm.forward(x), z = norm.forward(spoilt);
  CHECK(same(rows(y, D, 0, 1), rows(z, D, 0, 1)));
  CHECK(std::isnan(z[D]));
  CHECK(same(rows(y, D, 2, 1), rows(z, D, 2, 1)));
}

TEST_CASE("a norm's gradient is written over garbage, or added") {
  layer<fg::rmsnorm<D>> norm;
  numbers const x = random_numbers(3 * D, 3), dy = random_numbers(3 * D, 4);
  norm.train(x, dy);
  numbers const fresh = norm.all_gradients();
  norm.train(x, dy, {}, fg::gradients::accumulate, 10);
  for (std::size_t d = 0; d < D; ++d) CHECK(norm.dw[d] == Approx(fresh[d] + 10));
  norm.train({}, {});
  CHECK(norm.all_gradients() == numbers(D, 0));
}

TEST_CASE("rows may lie apart: a norm writes nothing between them") {
  numbers const x = random_numbers(2 * D, 5), gain(D, 1);
  numbers apart(2 * (D + 2), 7), y(2 * D), far(2 * (D + 2), 7), r(2);
  for (int t = 0; t < 2; ++t)
    for (int d = 0; d < D; ++d) apart[std::size_t(t * (D + 2) + d)] = x[std::size_t(t * D + d)];
  rmsnorm_forward(on, view(x, 2, D), view(gain, 1, D), 1e-6, view(y, 2, D), r.data());
  rmsnorm_forward(on, fg::matrix<double>(apart.data(), 2, D, D + 2), view(gain, 1, D), 1e-6,
                  fg::matrix<double>(far.data(), 2, D, D + 2), r.data());
  CHECK(same(rows(y, D, 1, 1), {far.begin() + D + 2, far.begin() + 2 * D + 2}));
  CHECK(far[D] == 7);
  CHECK(far[D + 1] == 7);
}

}  // namespace
