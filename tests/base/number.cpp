// Laws of base/number.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/base/number.hpp>
#include <string>
#include <tuple>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("a format says its name and how many bits a number has") {
  using f = fg::format;
  for (auto const& [format, name, bits] :
       {std::tuple{f::f64, "f64", 64}, std::tuple{f::f32, "f32", 32},
        std::tuple{f::bf16, "bf16", 16}, std::tuple{f::fp8, "fp8", 8},
        std::tuple{f::int8, "int8", 8}, std::tuple{f::int8_block, "int8_block", 8},
        std::tuple{f::int4, "int4", 4}}) {
    CHECK(fg::name_of(format) == std::string(name));
    CHECK(fg::bits(format) == bits);
  }
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

namespace {

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
fg::fp16 fp16_of(std::uint32_t bits) {
  fg::fp16 h;
  h.bits = static_cast<std::uint16_t>(bits);
  return h;
}
/// The number that 16 bits are, by the definition of IEEE 754.
double by_definition(std::uint32_t bits) {
  int const exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  double const size = exponent == 31  ? fraction ? NAN : INFINITY
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

}  // namespace

TEST_CASE("all 65536 fp16 are the numbers that they are, and come back") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    auto const x = static_cast<float>(fp16_of(bits));
    double const is = by_definition(bits);
    if (std::isnan(is)) {
      REQUIRE(std::isnan(x));
      REQUIRE(std::isnan(static_cast<float>(fg::fp16(x))));
    } else {
      REQUIRE(static_cast<double>(x) == is);
      REQUIRE(std::signbit(x) == (bits >= 0x8000));
      REQUIRE(fg::fp16(x).bits == bits);
    }
  }
}

TEST_CASE("a float becomes the nearest fp16, ties to even") {
  for (std::uint32_t bits = 0; bits < 0x7bff; ++bits) {  // a number, the next, and what is between
    double const low = by_definition(bits), high = by_definition(bits + 1);
    auto const middle = static_cast<float>((low + high) / 2);
    REQUIRE(fg::fp16(middle).bits == bits + (bits & 1));
    REQUIRE(fg::fp16(std::nextafter(middle, 0.0f)).bits == bits);
    REQUIRE(fg::fp16(std::nextafter(middle, INFINITY)).bits == bits + 1);
    REQUIRE(fg::fp16(-middle).bits == (0x8000 | (bits + (bits & 1))));
  }
  CHECK(fg::fp16(65519.99f).bits == 0x7bff);
  CHECK(fg::fp16(65520.0f).bits == 0x7c00);
  CHECK(fg::fp16(-INFINITY).bits == 0xfc00);
  CHECK(fg::fp16(1e-30f).bits == 0);
}

#if defined(__FLT16_MANT_DIG__)
TEST_CASE("floats become the fp16 that the compiler makes of them") {
  for (std::uint64_t i = 0; i < (std::uint64_t{1} << 32); i += 4099) {
    float const x = float_of(static_cast<std::uint32_t>(i));
    auto const theirs = static_cast<_Float16>(x);
    std::uint16_t bits;
    std::memcpy(&bits, &theirs, sizeof bits);
    if (std::isnan(x))
      REQUIRE(std::isnan(static_cast<float>(fg::fp16(x))));
    else
      REQUIRE(fg::fp16(x).bits == bits);
  }
}
#endif
