// The reference's experts.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/experts.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 5;

TEST_CASE("SiLU and GELU have their published values, and do not overflow") {
  auto const silu = fg::activation::swiglu, gelu = fg::activation::geglu;
  CHECK(fg::spec::activate(silu, 1.0) == Approx(0.7310585786300049).epsilon(1e-14));
  CHECK(fg::spec::activate(silu, -2.0) == Approx(-0.2384058440442351).epsilon(1e-14));
  CHECK(fg::spec::activate(gelu, 1.0) == Approx(0.8411919906082768).epsilon(1e-14));
  CHECK(fg::spec::activate(gelu, -2.0) == Approx(-0.04540230591222494).epsilon(1e-12));
  for (auto act : {silu, gelu}) {
    CHECK(fg::spec::activate(act, 0.0) == 0);
    CHECK(fg::spec::activate_derivative(act, 0.0) == 0.5);
    CHECK(fg::spec::activate(act, 1e4) == 1e4);
    CHECK(fg::spec::activate(act, -1e4) == 0);
    CHECK(fg::spec::activate_derivative(act, 1e4) == 1);
    CHECK(fg::spec::activate_derivative(act, -1e4) == 0);
  }
}

TEST_CASE("ReLU is its number above 0, and 0 below") {
  auto const relu = fg::activation::reglu;
  for (double z : {-1e4, -2.0, 0.0, 1e-300, 3.0, 1e4}) {
    CHECK(fg::spec::activate(relu, z) == std::max(z, 0.0));
    CHECK(fg::spec::activate_derivative(relu, z) == (z > 0));
  }
  CHECK(std::isnan(fg::spec::activate(relu, double(NAN))));
}

TEST_CASE("an expert of numbers that can be worked out by hand") {
  layer<fg::mlp<2, 1>> expert;
  auto const w = expert.weights();
  w.gate(0, 0) = 1, w.gate(0, 1) = -1;
  w.up(0, 0) = 2, w.up(0, 1) = 0;
  w.down(0, 0) = 3, w.down(1, 0) = -1;
  double const hidden = fg::spec::activate(fg::activation::swiglu, 5.0 - 4.0) * 10;
  CHECK(expert.forward({5, 4}) == numbers{3 * hidden, -hidden});
}

TEST_CASE(
    "a limit bounds a gate from above and an up from both sides, and stops gradients beyond") {
  layer<fg::mlp<2, 1, fg::glu{fg::activation::reglu, 2}>> expert;
  auto const w = expert.weights();
  std::fill(expert.w.begin(), expert.w.end(), 0.0);
  w.gate(0, 0) = 1, w.up(0, 1) = 1, w.down(0, 0) = 1;  // x0 is the gate, x1 the up
  auto const check = [&](double gate, double up, double y, double dgate, double dup) {
    CHECK(expert.forward({gate, up}) == numbers{y, 0});
    expert.train({gate, up}, {1, 0});
    CHECK(expert.dx == numbers{dgate, dup});
  };
  check(1, 1.5, 1.5, 1.5, 1);
  check(2, 1, 2, 1, 2);   // the limit itself is within
  check(3, 1, 2, 0, 2);   // no gradient of the gate
  check(-9, 1, 0, 0, 0);  // a gate has no lower limit
  check(1, 5, 2, 2, 0);   // no gradient of the up
  check(1, -2, -2, -2, 1);
  check(1, -5, -2, -2, 0);
  check(8, -8, -4, 0, 0);
  CHECK(std::isnan(expert.forward({double(NAN), 1})[0]));
  CHECK(std::isnan(expert.forward({1, double(NAN)})[0]));
  expert.train({1, double(NAN)}, {1, 0});
  CHECK(std::isnan(expert.dx[0]));
}

/// Rows [first, first + F) of the gate and up of a wide expert, and these columns of its down.
template <int F, class W>
layer<fg::mlp<D, F>> slice(W const& wide, int first) {
  layer<fg::mlp<D, F>> part;
  auto const w = part.weights();
  for (int f = 0; f < F; ++f)
    for (int d = 0; d < D; ++d) {
      w.gate(f, d) = wide.gate(first + f, d);
      w.up(f, d) = wide.up(first + f, d);
      w.down(d, f) = wide.down(d, first + f);
    }
  return part;
}

TEST_CASE("fine-grained segmentation: an expert is the sum of its m slices, and so is its dx") {
  layer<fg::mlp<D, 6>> whole;
  numbers const x = random_numbers(3 * D, 2), dy = random_numbers(3 * D, 3);
  numbers y = whole.train(x, dy), sum(y.size(), 0), dsum = sum;
  for (int first : {0, 2, 4}) {
    auto part = slice<2>(whole.weights(), first);
    numbers const one = part.train(x, dy);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += one[i], dsum[i] += part.dx[i];
    for (int d = 0; d < D; ++d)
      CHECK(part.gradients().gate(1, d) == Approx(whole.gradients().gate(first + 1, d)));
  }
  CHECK(largest_difference(y, sum) < 1e-13);
  CHECK(largest_difference(whole.dx, dsum) < 1e-13);
}

TEST_CASE("an expert sees tokens one by one, and its gradient is written or added") {
  layer<fg::mlp<D, 4>> expert;
  numbers const a = random_numbers(2 * D, 2), b = random_numbers(D, 3);
  CHECK(same(expert.forward(joined(a, b)), joined(expert.forward(a), expert.forward(b))));
  expert.train(a, random_numbers(2 * D, 4));
  numbers const fresh = expert.all_gradients();
  expert.train(a, random_numbers(2 * D, 4), {}, fg::gradients::accumulate, 1);
  for (std::size_t i = 0; i < fresh.size(); ++i)
    CHECK(expert.all_gradients()[i] == Approx(fresh[i] + 1));
  expert.train({}, {});
  CHECK(expert.all_gradients() == numbers(fresh.size(), 0));
}

}  // namespace
