// Packed weights: products with them, in every format, whatever the shapes and the rows beside.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/panels.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
namespace simd = fg::simd;
using enum fg::format;

/// bf16 of a number, as a float: to nearest, ties to even.
float rounded_to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  std::uint32_t const low = bits & 0xffff, high = bits & 0xffff0000;
  std::uint32_t const up = low > 0x8000 || (low == 0x8000 && (bits >> 16) % 2 == 1) ? 0x10000 : 0;
  std::uint32_t const result = std::isnan(x) ? high | 0x400000 : high + up;
  float y;
  std::memcpy(&y, &result, 4);
  return y;
}

template <fg::format F>
struct packed {
  fg::buffer<> memory;
  simd::panels<F> panels;

  packed(std::int64_t count, std::int64_t rows, std::int64_t cols, int sides, float const* first,
         float const* second = nullptr)
      : memory(bytes(count, rows, cols, sides)) {
    fg::arena arena(memory.data(), memory.size());
    panels = simd::panels<F>(arena, count, rows, cols, sides);
    std::fill_n(reinterpret_cast<float*>(memory.data()), memory.size() / 4, poison);
    simd::fill_panels(fg::cpu(), panels, {first, count, rows, cols});
    if (second) simd::fill_panels(fg::cpu(), panels, {second, count, rows, cols}, 0, 1);
  }
  static std::int64_t bytes(std::int64_t count, std::int64_t rows, std::int64_t cols, int sides) {
    fg::arena counting;
    static_cast<void>(simd::panels<F>(counting, count, rows, cols, sides));
    return counting.used();
  }
};

/// y (T, panels * panel_width) of matrix i.
template <fg::format F>
numbers product(packed<F> const& b, std::int64_t i, fg::matrix<float const> a) {
  auto const K = a.cols, columns = b.panels.size() * simd::panel_width;
  numbers room(std::size_t(simd::left_rows<F>::size(a.rows, K)), poison);
  numbers y(std::size_t(a.rows * columns), poison);
  std::int64_t const most = simd::left_rows<F>::most(K);
  for (std::int64_t t = 0; t < a.rows; t += most) {
    int const n = int(std::min(most, a.rows - t));
    simd::left_rows<F> const left(room.data(), a.middle_rows(t, n), n, K);
    left.multiply(b.panels.matrix(i, nullptr), 0, b.panels.size(),
                  [&](std::int64_t p, float const* sums) {
                    for (int r = 0; r < n; ++r)
                      std::copy_n(sums + r * simd::panel_width, simd::panel_width,
                                  &y[std::size_t((t + r) * columns + p * simd::panel_width)]);
                  });
  }
  return y;
}

TEMPLATE_TEST_CASE_SIG("products with packed weights are exact on whole numbers", "",
                       ((fg::format F), F), f32, bf16) {
  for (auto [T, K, N] : {std::array<int, 3>{1, 1, 1},
                         {2, 2, 40},
                         {14, 16, 32},
                         {15, 17, 33},
                         {29, 255, 16},
                         {7, 256, 65},
                         {43, 513, 31},
                         {113, 1000, 48}}) {
    INFO("T " << T << ", K " << K << ", N " << N);
    numbers const a = whole_numbers(T * K, 1), w = whole_numbers(3 * N * K, 2);
    guarded rows(T, K);  // nothing behind the last row is read
    rows = a;
    packed<F> const b(3, N, K, 1, w.data());
    for (int i = 0; i < 3; ++i) {
      numbers const y = product(b, i, rows.view());
      std::int64_t const stride = b.panels.size() * simd::panel_width;
      int wrong = 0;
      for (int t = 0; t < T; ++t)
        for (int n = 0; n < stride; ++n) {
          float sum = 0;
          for (int k = 0; k < K && n < N; ++k)
            sum += a[std::size_t(t * K + k)] * w[std::size_t((i * N + n) * K + k)];
          wrong += y[std::size_t(t * stride + n)] != sum;  // 0 in columns that are not there
        }
      CHECK(wrong == 0);
    }
  }
}

TEMPLATE_TEST_CASE_SIG("gate and up stand side by side in a panel", "", ((fg::format F), F), f32,
                       bf16) {
  int const T = GENERATE(5, 13), K = 70, N = 37, E = 2;
  numbers const a = whole_numbers(T * K, 1), g = whole_numbers(E * N * K, 2),
                u = whole_numbers(E * N * K, 3);
  packed<F> const both(E, N, K, 2, g.data(), u.data());
  for (int e = 0; e < E; ++e) {
    numbers const y = product(both, e, view(a, T, K));
    std::int64_t const stride = both.panels.size() * simd::panel_width;
    for (int t = 0; t < T; ++t)
      for (int n = 0; n < N; ++n) {
        float sums[2] = {};
        for (int k = 0; k < K; ++k) {
          sums[0] += a[std::size_t(t * K + k)] * g[std::size_t((e * N + n) * K + k)];
          sums[1] += a[std::size_t(t * K + k)] * u[std::size_t((e * N + n) * K + k)];
        }
        std::int64_t const at = t * stride + n / simd::lanes * simd::panel_width + n % simd::lanes;
        REQUIRE(y[std::size_t(at)] == sums[0]);
        REQUIRE(y[std::size_t(at + simd::lanes)] == sums[1]);
      }
  }
}

TEMPLATE_TEST_CASE_SIG("a row's product does not depend on the rows beside it", "",
                       ((fg::format F), F), f32, bf16) {
  int const T = 40, K = GENERATE(777, 774), N = 50;
  numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
  packed<F> const b(1, N, K, 1, w.data());
  numbers const together = product(b, 0, view(a, T, K));
  auto const stride = std::int64_t(together.size()) / T;
  for (int t = 0; t < T; ++t) {
    REQUIRE(same(product(b, 0, view(a, T, K).middle_rows(t, 1)), rows(together, stride, t, 1)));
    numbers others(a.size(), poison);  // nor on whether these are finite
    std::copy_n(a.begin() + t * K, K, others.begin() + t * K);
    for (int n : {t + 1, T})  // it is the last, or one of many
      REQUIRE(same(rows(product(b, 0, view(others, n, K)), stride, t, 1),
                   rows(together, stride, t, 1)));
  }
}

TEST_CASE("a bf16 product is that of the rounded numbers") {
  int const T = 9, K = 300, N = 33;
  numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
  packed<bf16> const b(1, N, K, 1, w.data());
  numbers const y = product(b, 0, view(a, T, K));
  for (int t = 0; t < T; ++t)
    for (int n = 0; n < N; ++n) {
      double sum = 0, size = 0;
      for (int k = 0; k < K; ++k) {
        double const one = double(rounded_to_bf16(a[std::size_t(t * K + k)])) *
                           double(rounded_to_bf16(w[std::size_t(n * K + k)]));
        sum += one;
        size += std::abs(one);
      }
      CHECK(std::abs(double(y[std::size_t(t) * (y.size() / T) + std::size_t(n)]) - sum) <
            1e-5 * size);
    }
}

/// With avx512_bf16, products take subnormal numbers for 0, and so does rounding.
bool lost(float x) {
#if defined(__AVX512BF16__)
  return std::abs(x) < 1.17549435e-38f;
#else
  return static_cast<void>(x), false;
#endif
}

TEST_CASE("bf16 units round to nearest, ties to even, and keep what is not a number") {
  numbers from{0.0f,       -0.0f,           1.0f,     -1.0f,     1.00390625f, 1.01171875f,
               1.0039063f, 3.4028235e38f,   infinity, -infinity, poison,      -poison,
               1e-40f,     1.17549435e-38f, 65535.0f, -0.1f};
  for (float x : random_numbers(1001, 3)) from.push_back(x);
  for (std::size_t count = 1; count <= from.size(); count = count < 70 ? count + 1 : 3 * count) {
    count = std::min(count, from.size());
    guarded some(1, std::int64_t(count));
    some = numbers(from.begin(), from.begin() + std::ptrdiff_t(count));
    numbers units((count + 1) / 2 + 1, poison);
    simd::unit<bf16>::take(some.data(), std::int64_t(count), units.data());
    std::vector<std::uint16_t> halves(units.size() * 2);
    std::memcpy(halves.data(), units.data(), units.size() * 4);
    for (std::size_t i = 0; i < count; ++i) {
      float const expected = lost(from[i]) ? from[i] * 0 : rounded_to_bf16(from[i]);
      std::uint32_t bits;
      std::memcpy(&bits, &expected, 4);
      REQUIRE(halves[i] == bits >> 16);
    }
    if (count % 2 == 1) REQUIRE(halves[count] == 0);
    REQUIRE(std::isnan(units.back()));  // nothing behind the last unit is written
    if (count == from.size()) break;
  }
}

TEST_CASE("packed weights are hardly larger than the numbers are") {
  auto const ratio = []<fg::format F>(packed<F> const*, std::int64_t rows, std::int64_t cols,
                                      int sides) {
    return double(packed<F>::bytes(3, rows, cols, sides)) /
           double(3 * rows * cols * sides * fg::bits(F) / 8);
  };
  for (auto [rows, cols, sides] : {std::array<int, 3>{1408, 2048, 2},
                                   {2048, 1408, 1},
                                   {853, 2048, 2},
                                   {2048, 853, 1},
                                   {2048, 7168, 2}}) {
    CHECK(ratio(static_cast<packed<f32>*>(nullptr), rows, cols, sides) <= 1.02);
    CHECK(ratio(static_cast<packed<bf16>*>(nullptr), rows, cols, sides) <= 1.02);
  }
}

}  // namespace
