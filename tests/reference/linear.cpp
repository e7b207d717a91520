// The reference's linear map.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/stages.hpp>
#include <finegrain/reference/linear.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("a linear map of numbers that can be worked out by hand") {
  numbers const x{1, 2, 3, 4}, w{1, 0, 0, 1, 1, 1}, dy{1, 0, 0, 0, 1, 2};
  numbers y(6), dw(6, poison), dx(4, poison);
  linear_forward(on, view(x, 2, 2), view(w, 3, 2), view(y, 2, 3));
  CHECK(y == numbers{1, 2, 3, 3, 4, 7});
  linear_backward(on, view(x, 2, 2), view(w, 3, 2), view(dy, 2, 3), view(dw, 3, 2),
                  fg::gradients::overwrite, view(dx, 2, 2), fg::gradients::overwrite);
  CHECK(dw == numbers{1, 2, 3, 4, 6, 8});
  CHECK(dx == numbers{1, 0, 2, 3});
}

TEST_CASE("each gradient of a linear map is overwritten or added to by itself") {
  auto const over = fg::gradients::overwrite, add = fg::gradients::accumulate;
  numbers const x{1, 2}, w{3, 4}, dy{5};
  for (auto dw_mode : {over, add})
    for (auto dx_mode : {over, add}) {
      numbers dw{100, 100}, dx{1000, 1000};
      linear_backward(on, view(x, 1, 2), view(w, 1, 2), view(dy, 1, 1), view(dw, 1, 2), dw_mode,
                      view(dx, 1, 2), dx_mode);
      double const b = dw_mode == add ? 100 : 0, c = dx_mode == add ? 1000 : 0;
      CHECK(dw == numbers{5 + b, 10 + b});
      CHECK(dx == numbers{15 + c, 20 + c});
    }
}

TEST_CASE("without tokens a weight's gradient is 0, or what it was") {
  layer<fg::linear<3, 2>> map;
  CHECK(map.train({}, {}).empty());
  CHECK(map.all_gradients() == numbers(6, 0));
  map.train({}, {}, {}, fg::gradients::accumulate, 4);
  CHECK(map.all_gradients() == numbers(6, 4));
}

TEST_CASE("a token's output does not depend on its neighbours") {
  layer<fg::head<4, 7>> head;
  numbers const a = random_numbers(8, 1), b = random_numbers(12, 2);
  CHECK(same(head.forward(joined(a, b)), joined(head.forward(a), head.forward(b))));
}

}  // namespace
