// Codes of quantised formats: what they mean, what is nearest, and how they become units.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/codec.hpp>

#include "../catch.hpp"
#include "codes.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
namespace simd = fg::simd;
using enum fg::format;

#define EVERY_FORMAT ((fg::format F), F), fp8, int8, int8_block, int4

template <fg::format F>
constexpr std::uint32_t codes = 1u << simd::codec<F>::bits;
/// e4m3 has a NaN, which no number is coded as.
template <fg::format F>
bool a_number(std::uint32_t code) {
  if (F == int8 || F == int8_block) return simd::codec<F>::value(code) >= -127;
  return F != fp8 || (code & 127) != 127;
}

/// What the codec makes of x, in whichever lane it stands.
template <fg::format F>
std::uint32_t code(float x) {
  simd::ivec const all = simd::codec<F>::codes(simd::broadcast(x));
  for (int lane = 1; lane < simd::lanes; ++lane) REQUIRE(all[lane] == all[0]);
  return std::uint32_t(all[0]) & (codes<F> - 1);
}

TEMPLATE_TEST_CASE_SIG("every value has a code, and a number the nearest value's", "",
                       EVERY_FORMAT) {
  using codec = simd::codec<F>;
  std::vector<float> values;
  for (std::uint32_t c = 0; c < codes<F>; ++c)
    if (a_number<F>(c)) values.push_back(codec::value(c));
  for (float const v : values) CHECK(codec::value(code<F>(v)) == v);
  std::sort(values.begin(), values.end());
  for (float const n : random_numbers(3000, 1, 100)) {
    float const x = n / float(1 << (std::abs(int(n)) % 18));
    float const got = codec::value(code<F>(x));
    float nearest = values[0];
    for (float const v : values)
      if (std::abs(v - x) < std::abs(nearest - x)) nearest = v;
    INFO(x);
    CHECK(std::abs(got - x) == std::abs(nearest - x));
  }
}

TEMPLATE_TEST_CASE_SIG("a number's code is the nearest one's, of two as near the even one's", "",
                       EVERY_FORMAT) {
  int wrong = 0;
  auto const check = [&](float x) { wrong += code<F>(x) != nearest_code<F>(x); };
  for (int i = -2100; i <= 2100; ++i)  // ties of integers, and of e4m3 of every exponent
    for (float const unit : {0.25f, 0x1p-10f, 0x1p-8f, 0x1p-5f, 1.0f}) check(float(i) * unit);
  for (float const n : random_numbers(20000, 7, 60))
    check(n), check(n * 0x1p-12f), check(n * 1e10f);
  for (float const n : {0.0f, -0.0f, 1e-45f, -1e-45f}) check(n);
  if (F == fp8) check(infinity), check(-infinity);
  CHECK(wrong == 0);
}

TEST_CASE("e4m3's values are those of its definition") {
  using codec = simd::codec<fp8>;
  CHECK(codec::value(0) == 0);
  CHECK(codec::value(1) == 0x1p-9f);  // the least subnormal number
  CHECK(codec::value(7) == 7 * 0x1p-9f);
  CHECK(codec::value(8) == 0x1p-6f);  // the least normal one
  CHECK(codec::value(0x38) == 1);
  CHECK(codec::value(0x7e) == 448);
  CHECK(codec::value(0xfe) == -448);
  CHECK(code<fp8>(1000) == 0x7e);
  CHECK(code<fp8>(9.5f) == code<fp8>(10));  // a tie goes to the even code: 10 of 9 and 10
  CHECK(code<fp8>(0x1p-10f) == 0);
  CHECK(code<fp8>(0.99f * 0x1p-6f) == 8);  // rounds up into the normal numbers
}

/// What a decoder makes of code k of a lane: its value over a power of two; or, where products are of
/// integers, a power of two times the code.
template <fg::format F>
float decoded(std::uint32_t code, [[maybe_unused]] int k) {
  using codec = simd::codec<F>;
  if constexpr (simd::Integers<codec::products>)
    return std::ldexp(float(code), simd::unit<codec::products>::place(k));
  else
    return codec::value(code) / codec::times;
}

TEMPLATE_TEST_CASE_SIG("decoders make units of every code in every place", "", EVERY_FORMAT) {
  constexpr int n = simd::step_units<F>, bits = simd::codec<F>::bits;
  simd::decoder<F> const decode;
  std::uint32_t state = 1;
  int wrong = 0;
  for (int round = 0; round < 2000; ++round) {
    simd::ivec word{};
    for (int lane = 0; lane < simd::lanes; ++lane) {
      std::uint32_t w = 0;
      for (int i = 0; i < 32 / bits; ++i) {
        do state = state * 1664525u + 1013904223u;
        while (!a_number<F>((state >> 16) % codes<F>));
        w |= (state >> 16) % codes<F> << (bits * i);
      }
      word[lane] = std::int32_t(w);
    }
    simd::vec numbers[n][2];
    constexpr bool in_pairs = requires { decode.numbers(word, 0, numbers[0]); };
    if constexpr (in_pairs) {
      for (int u = 0; u < n; ++u) decode.numbers(word, u, numbers[u]);
    } else {
      simd::vec units[n];
      decode.units(word, units);
      for (int u = 0; u < n; ++u) {
        auto const pairs = reinterpret_cast<simd::uvec>(units[u]);
        numbers[u][0] = reinterpret_cast<simd::vec>(pairs << 16);
        numbers[u][1] = reinterpret_cast<simd::vec>(pairs & 0xffff0000u);
      }
    }
    for (int u = 0; u < n; ++u)
      for (int lane = 0; lane < simd::lanes; ++lane)
        for (int half = 0; half < 2; ++half) {
          auto const code = std::uint32_t(word[lane]) >> (bits * u + 16 * half) & (codes<F> - 1);
          float const expected = decoded<F>(code, 2 * u + half);
          wrong += numbers[u][half][lane] != expected;
          if constexpr (in_pairs) wrong += decode.number(word, 2 * u + half)[lane] != expected;
          if constexpr (simd::Integers<simd::codec<F>::products>) {
            auto const integers =
                std::bit_cast<std::uint32_t>(float(simd::decoder<F>::pair(word, u)[lane]));
            wrong += (integers >> (16 * half) & 0xffff) != code;
            // a byte of a word of them
            int const at = 8 * (2 * half + u / (n / 2));
            auto const byte = [&](simd::vec v) {
              return std::bit_cast<std::uint32_t>(float(v[lane])) >> at & 255;
            };
            wrong += byte(simd::decoder<F>::word(word, u % (n / 2))) != code;
          }
        }
  }
  CHECK(wrong == 0);
}

}  // namespace
