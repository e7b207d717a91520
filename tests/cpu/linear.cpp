// The linear map on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>  // declares the kernels that are apart
#include <finegrain/reference/linear.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("linear agrees with the specification, values and gradients") {
  CHECK(distance<fg::linear<33, 65>>(random_numbers(100 * 33, 2), random_numbers(100 * 65, 3)) <
        1e-6);
  CHECK(distance<fg::linear<1000, 1>>(random_numbers(1000, 2), random_numbers(1, 3)) < 1e-5);
  CHECK(distance<fg::head<7, 300>>(random_numbers(7, 2), random_numbers(300, 3)) < 1e-6);
}

TEST_CASE("linear of no tokens has gradients of exactly zero") {
  layer<fg::linear<5, 3>> none;
  none.train({}, {});
  for (float const number : none.all_gradients()) CHECK(number == 0);
}

TEST_CASE("linear gives the same bits for any number of threads and any split of the batch") {
  numbers const x = random_numbers(211 * 70, 2), dy = random_numbers(211 * 150, 3);
  layer<fg::linear<70, 150>> one(fg::cpu(fg::parallel{}));
  one.train(x, dy);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<fg::linear<70, 150>> many{fg::cpu(pool)};
    many.train(x, dy);
    CHECK(same(one.y, many.y));
    CHECK(same(one.dx, many.dx));
    CHECK(same(one.all_gradients(), many.all_gradients()));
  }
  layer<fg::linear<70, 150>> part;
  numbers y;
  for (auto [first, count] : {std::pair{0, 1}, {1, 100}, {101, 110}})
    y = joined(y, part.forward(rows(x, 70, first, count)));
  CHECK(same(one.y, y));
}

TEST_CASE("a bias's gradient keeps its precision over very many tokens, and is added where asked") {
  constexpr std::int64_t tokens = 200'000;
  numbers const dy(tokens, 0.1f);
  numbers dbias(1, 7.0f);
  bias_backward(fg::cpu(), view(dy, tokens, 1), view(dbias, 1, 1), fg::gradients::overwrite);
  CHECK(dbias[0] == Approx(0.1 * tokens).epsilon(1e-6));
  bias_backward(fg::cpu(), view(dy, tokens, 1), view(dbias, 1, 1), fg::gradients::accumulate);
  CHECK(dbias[0] == Approx(0.2 * tokens).epsilon(1e-6));
}

TEST_CASE("linear reaches rows more than 2^31 numbers apart") {
  far_apart const x(3, 8), y(3, 4), dx(3, 8);
  if (!x.view().data || !y.view().data || !dx.view().data) SKIP("no address space to reserve");
  numbers const w = random_numbers(4 * 8, 1), packed = random_numbers(3 * 8, 2);
  for (int t = 0; t < 3; ++t) std::copy_n(&packed[std::size_t(t * 8)], 8, x.view().row(t));
  fg::cpu const on;
  numbers near(12), dw(32), dx_near(24), dw_near(32);
  linear_forward(on, x.view(), view(w, 4, 8), y.view());
  linear_forward(on, view(packed, 3, 8), view(w, 4, 8), view(near, 3, 4));
  linear_backward(on, x.view(), view(w, 4, 8), y.view(), view(dw, 4, 8), fg::gradients::overwrite,
                  dx.view(), fg::gradients::overwrite);
  linear_backward(on, view(packed, 3, 8), view(w, 4, 8), view(near, 3, 4), view(dw_near, 4, 8),
                  fg::gradients::overwrite, view(dx_near, 3, 8), fg::gradients::overwrite);
  CHECK(same(dw, dw_near));
  for (int t = 0; t < 3; ++t) {
    CHECK(std::equal(y.view().row(t), y.view().row(t) + 4, &near[std::size_t(t * 4)]));
    CHECK(std::equal(dx.view().row(t), dx.view().row(t) + 8, &dx_near[std::size_t(t * 8)]));
  }
}

}  // namespace
