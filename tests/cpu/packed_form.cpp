// packed_form<cpu>: what its words say, and nothing else of the instruction set, decides the bytes of panels.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <random>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "codes.hpp"

namespace fg = finegrain;

namespace {

using fg::format;

/// What a format's words say.
struct words {
  int vectors = 0, lanes = 0, k = 1;
  unsigned zero = 0;
  bool flushes = false;

  explicit words(std::string const& text) {
    auto const number = [&](char const* behind) {
      auto const at = text.find(behind);
      return at == text.npos ? -1 : std::atoi(text.c_str() + at + std::strlen(behind));
    };
    vectors = number("panels of "), lanes = number(" x ");
    k = std::max(1, number("k by "));
    zero = unsigned(std::max(0, number("0 is code ")));
    flushes = text.ends_with("subnormals are 0");
  }
};

/// Matrices for a product, of one side or two.
struct stacked {
  std::int64_t count, rows, cols;
  std::vector<std::vector<float>> sides;

  stacked(std::int64_t count, std::int64_t rows, std::int64_t cols, std::size_t pairs)
      : count(count), rows(rows), cols(cols), sides(pairs) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (auto& side : sides)
      for (std::int64_t i = 0; i < count * rows * cols; ++i)
        side.push_back(i % 97 == 5 ? 1e-39f : i / 40 % 5 == 1 ? 0.0f : normal(random));
  }
  float at(std::size_t side, std::int64_t i, std::int64_t r, std::int64_t c) const {
    return r < rows && c < cols ? sides[side][std::size_t((i * rows + r) * cols + c)] : 0.0f;
  }
};

template <class T>
void append(std::vector<std::byte>& to, T number) {
  std::byte bytes[sizeof number];
  std::memcpy(bytes, &number, sizeof number);
  to.insert(to.end(), bytes, bytes + sizeof number);
}

std::uint16_t bf16_bits(float x, bool flushes = false) {
  if (flushes && std::fpclassify(x) == FP_SUBNORMAL) x = 0;
  return std::bit_cast<std::uint16_t>(fg::bf16(x));
}

template <format F>
std::uint32_t code_of(float x, float scale, unsigned zero) {
  x = scale == 0 ? 0 : x / scale;
  if constexpr (F == format::fp8) return under_test::nearest_code<F>(x);
  constexpr long low = F == format::int4 ? -8 : -127, high = F == format::int4 ? 7 : 127;
  return unsigned(std::clamp(std::lrint(x), low, high) + long(zero)) &
         (F == format::int4 ? 15u : 255u);
}
/// The panels of these matrices, by the words and the format's definition.
template <format F>
std::vector<std::byte> expected(stacked const& w, words const& how) {
  std::vector<std::byte> made;
  std::int64_t const two = std::ssize(w.sides), width = how.vectors * how.lanes / two;
  std::int64_t const K = (w.cols + how.k - 1) / how.k * how.k;
  constexpr bool coded = fg::bits(F) <= 8;
  constexpr std::int64_t step = coded ? 32 / fg::bits(F) : F == format::bf16 ? 2 : 1;
  std::int64_t const block = F == format::int8  ? std::max(K, step)
                             : F == format::fp8 ? 128
                             : coded            ? 32
                                                : std::max(K, step);
  for (std::int64_t i = 0; i < w.count; ++i) {
    std::vector<under_test::scales_of<coded ? F : format::int8>> scales;
    if constexpr (coded)
      for (auto const& side : w.sides)
        scales.emplace_back(side.data() + i * w.rows * w.cols, w.rows, w.cols);
    for (std::int64_t top = 0; top < w.rows; top += width)
      for (std::int64_t k = 0; k < K; k += block) {
        std::int64_t const end = std::min(K, k + block);
        auto const each = [&](auto&& f) {
          for (int j = 0; j < how.vectors; ++j)
            for (int lane = 0; lane < how.lanes; ++lane)
              f(std::size_t(two == 2 ? j : 0), top + (two == 2 ? 0 : j * how.lanes) + lane);
        };
        for (std::int64_t c = k; c < end; c += step)
          each([&](std::size_t side, std::int64_t r) {
            if constexpr (F == format::f32) {
              append(made, w.at(side, i, r, c));
            } else if constexpr (F == format::bf16) {
              append(made, bf16_bits(w.at(side, i, r, c), how.flushes));
              append(made, bf16_bits(w.at(side, i, r, c + 1), how.flushes));
            } else {
              float const by = scales[side](r, c);
              std::uint32_t word = 0;
              for (int n = 0; n < step; ++n)
                word |= code_of<F>(w.at(side, i, r, c + n), by, how.zero)
                        << (fg::bits(F) * (n / 2) + 16 * (n % 2));
              append(made, word);
            }
          });
        if constexpr (coded)
          for (int lane = 0; lane < how.lanes; ++lane)
            for (int j = 0; j < how.vectors; ++j)
              append(made, bf16_bits(scales[std::size_t(two == 2 ? j : 0)](
                               top + (two == 2 ? 0 : j * how.lanes) + lane, k)));
      }
  }
  return made;
}

template <format F>
void check(std::int64_t rows, std::int64_t cols, int sides) {
  stacked const w(2, rows, cols, std::size_t(sides));
  fg::arena counting;
  static_cast<void>(fg::simd::panels<F>(counting, 2, rows, cols, sides));
  fg::buffer<> memory(counting.used());
  fg::arena binding(memory.data(), memory.size());
  fg::simd::panels<F> const panels(binding, 2, rows, cols, sides);
  auto const side = [&](std::size_t s) {
    return fg::stack<float const>{w.sides[s].data(), 2, rows, cols};
  };
  for (int s = 0; s < sides; ++s)
    fg::simd::fill_panels(fg::cpu(), panels, side(std::size_t(s)), 0, s);
  auto const right = expected<F>(w, words(fg::packed_form<fg::cpu>::text<F>()));
  CAPTURE(rows, cols, sides, fg::packed_form<fg::cpu>::text<F>());
  REQUIRE(std::int64_t(right.size()) <= memory.size());
  CHECK(memory.size() - std::int64_t(right.size()) < fg::alignment);
  std::size_t wrong = 0;
  while (wrong < right.size() && right[wrong] == memory[std::int64_t(wrong)]) ++wrong;
  CHECK(wrong == right.size());
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("panels have the bytes that packed_form's words say", "", ((format F), F),
                       format::f32, format::bf16, format::fp8, format::int8, format::int8_block,
                       format::int4) {
  for (int sides : {1, 2})
    for (std::int64_t const cols : {1, 7, 32, 45, 130, 300})
      for (std::int64_t const rows : {1, 16, 37, 150}) check<F>(rows, cols, sides);
}
