// Laws of base/bounds.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <concepts>
#include <cstdint>
#include <finegrain/base/bounds.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("ceil_div is the least number of pieces that cover a whole") {
  for (int a = 0; a < 50; ++a)
    for (int b = 1; b < 12; ++b) {
      int const pieces = fg::ceil_div(a, b);
      CAPTURE(a, b);
      REQUIRE(pieces * b >= a);
      REQUIRE((pieces - 1) * b < a);
    }
}

TEST_CASE("ceil_div is of the type that its operands have together") {
  STATIC_REQUIRE(std::same_as<decltype(fg::ceil_div(1, 2)), int>);
  STATIC_REQUIRE(std::same_as<decltype(fg::ceil_div(std::int64_t{1}, 2)), std::int64_t>);
  CHECK(fg::ceil_div(std::int64_t{1} << 40, 3) == 366503875926);
}

TEST_CASE("a bound keeps what is within it") {
  CHECK(fg::at_most(3, 5) == 3);
  CHECK(fg::at_most(7, 5) == 5);
  CHECK(fg::at_least(3, 5) == 5);
  CHECK(fg::at_least(7, 5) == 7);
}
