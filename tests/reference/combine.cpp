// The reference's combine.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/combine.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("combine adds outputs, each times its weight") {
  numbers const weight{2, -1}, out{1, 10, 100, 1000};
  numbers y{5, 5, 5, 5};
  combine_forward(on, view(weight, 2, 1), view(out, 2, 2), view(y, 2, 2));
  CHECK(y == numbers{7, 25, -95, -995});
}

TEST_CASE("combine's gradients are a dot product and a scaled copy, written over garbage") {
  numbers const weight{2, -1}, out{1, 10, 100, 1000}, dy{1, 2, 3, 4};
  numbers dweight(2, poison), dout(4, poison);
  combine_backward(on, view(weight, 2, 1), view(out, 2, 2), view(dy, 2, 2), view(dweight, 2, 1),
                   view(dout, 2, 2));
  CHECK(dweight == numbers{21, 4300});
  CHECK(dout == numbers{2, 4, -3, -4});
}

}  // namespace
