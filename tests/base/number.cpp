// Laws of base/number.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/number.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("a format says how many bytes numbers take") {
  CHECK(fg::bytes(1000, fg::format::f64) == 8000);
  CHECK(fg::bytes(1000, fg::format::f32) == 4000);
  CHECK(fg::bytes(1000, fg::format::bf16) == 2000);
  CHECK(fg::bytes(1000, fg::format::fp8) == 1000);
  CHECK(fg::bytes(1000, fg::format::int8) == 1000);
  CHECK(fg::bytes(1000, fg::format::int4) == 500);
}

TEST_CASE("half a byte rounds up, and none stays none") {
  CHECK(fg::bytes(3, fg::format::int4) == 2);
  CHECK(fg::bytes(0, fg::format::int4) == 0);
}

TEST_CASE("bytes of the largest published models do not overflow") {
  CHECK(fg::bytes(2'000'000'000'000, fg::format::f64) == 16'000'000'000'000);
}

TEST_CASE("two numbers of bf16 hold 16 bits, and the first alone is itself") {
  fg::bf16 first[4], rest[4];
  float const numbers[] = {1.001f, -39.3456f, 0, 383};
  for (int i = 0; i < 4; ++i) fg::summed<fg::bf16>::write(numbers[i], first[i], rest[i]);
  fg::summed<fg::bf16> const sums{first, rest}, alone{first};
  for (int i = 0; i < 4; ++i) {
    CHECK(std::abs(sums[i] - numbers[i]) <= std::abs(numbers[i]) * 0x1p-16f);
    CHECK(alone[i] == static_cast<float>(first[i]));
  }
  first[1] = fg::bf16(0.5f);  // the rest of an older number
  CHECK(sums[1] == 0.5f);
}
