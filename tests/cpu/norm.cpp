// The RMS norm on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/norm.hpp>
#include <finegrain/reference/norm.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("rmsnorm agrees with the specification, values and gradients") {
  CHECK(distance<fg::rmsnorm<3>>(random_numbers(9, 2), random_numbers(9, 3)) < 1e-6);
  CHECK(distance<fg::rmsnorm<64>>(random_numbers(50 * 64, 2), random_numbers(50 * 64, 3)) < 1e-6);
  CHECK(distance<fg::rmsnorm<853>>(random_numbers(7 * 853, 2), random_numbers(7 * 853, 3)) < 1e-6);
}

TEST_CASE("rmsnorm's gradients are added where asked, and exactly zero without tokens") {
  layer<fg::rmsnorm<5>> plain, adding;
  numbers const x = random_numbers(15, 2), dy = random_numbers(15, 3);
  adding.mode = fg::gradients::accumulate;
  adding.before = 2;
  plain.train(x, dy);
  adding.train(x, dy);
  for (std::size_t i = 0; i < 5; ++i) CHECK(adding.dw[i] == 2 + plain.dw[i]);
  plain.train({}, {});
  for (float const number : plain.all_gradients()) CHECK(number == 0);
}

TEST_CASE("a gain's gradient keeps its precision over very many rows") {
  constexpr std::int64_t rows = 200'000;
  numbers const x(rows, 2.0f), dy(rows, 0.1f);
  numbers gain(1, 1.0f), y(rows), inverse(rows), dgain(1), dx(rows);
  fg::cpu const on;
  rmsnorm_forward(on, view(x, rows, 1), view(gain, 1, 1), 1e-6f, view(y, rows, 1), inverse.data());
  rmsnorm_backward(on, view(x, rows, 1), view(gain, 1, 1), inverse.data(), view(dy, rows, 1),
                   view(dgain, 1, 1), fg::gradients::overwrite, view(dx, rows, 1));
  CHECK(dgain[0] == Approx(0.1 * rows).epsilon(1e-6));
}

TEST_CASE("rmsnorm keeps to its rows: a NaN changes no other row, nothing behind the end is read") {
  numbers x = random_numbers(20 * 9, 2);
  layer<fg::rmsnorm<9>> norm;
  numbers const clean = norm.forward(x);
  x[9 * 4 + 2] = poison;
  norm.forward(x);
  CHECK(same(rows(norm.y, 9, 0, 4), rows(clean, 9, 0, 4)));
  CHECK(same(rows(norm.y, 9, 5, 15), rows(clean, 9, 5, 15)));
  CHECK(std::isnan(norm.y[9 * 4]));

  guarded from(3, 853), gain(1, 853), to(3, 853);
  from = random_numbers(3 * 853, 2);
  gain = random_numbers(853, 3);
  float inverse[3];
  rmsnorm_forward(fg::cpu(), from.view(), gain.view(), 1e-6f, to.view(), inverse);
  CHECK(to.view()(2, 852) == from.view()(2, 852) * inverse[2] * gain.view()(0, 852));
}

TEST_CASE("what goes round the norm is added to its gradient") {
  numbers const x = random_numbers(6, 1), gain = random_numbers(3, 2), dy = random_numbers(6, 3),
                also = random_numbers(6, 4);
  numbers y(6), dgain(3), dx(6), both(6);
  float inverse[2];
  fg::cpu const on;
  rmsnorm_forward(on, view(x, 2, 3), view(gain, 1, 3), 1e-6f, view(y, 2, 3), inverse);
  rmsnorm_backward(on, view(x, 2, 3), view(gain, 1, 3), inverse, view(dy, 2, 3), view(dgain, 1, 3),
                   fg::gradients::overwrite, view(dx, 2, 3));
  rmsnorm_backward(on, view(x, 2, 3), view(gain, 1, 3), inverse, view(dy, 2, 3), view(dgain, 1, 3),
                   fg::gradients::overwrite, view(both, 2, 3), view(also, 2, 3));
  for (std::size_t i = 0; i < 6; ++i) CHECK(both[i] == dx[i] + also[i]);
}

}  // namespace
