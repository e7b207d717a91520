// Products with quantised weights: of the weights that the format keeps, in one order of summing.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/coded.hpp>
#include <finegrain/cpu/expert_tasks.hpp>

#include "../catch.hpp"
#include "codes.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
namespace simd = fg::simd;
using enum fg::format;

#define EVERY_FORMAT ((fg::format F), F), fp8, int8, int8_block, int4

float bf16_of(float x) {
  auto const bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

template <fg::format F>
struct coded {
  using left = simd::left_rows<simd::panels<F>::products>;
  fg::buffer<> memory;
  simd::panels<F> panels;

  coded(std::int64_t count, std::int64_t rows, std::int64_t cols, int sides, float const* first,
        float const* second = nullptr)
      : memory(bytes(count, rows, cols, sides)) {
    std::fill_n(memory.data(), memory.size(), std::byte{0xff});
    fg::arena arena(memory.data(), memory.size());
    panels = simd::panels<F>(arena, count, rows, cols, sides);
    simd::fill_panels(fg::cpu(), panels, {first, count, rows, cols});
    if (second) simd::fill_panels(fg::cpu(), panels, {second, count, rows, cols}, 0, 1);
  }
  static std::int64_t bytes(std::int64_t count, std::int64_t rows, std::int64_t cols, int sides) {
    fg::arena counting;
    static_cast<void>(simd::panels<F>(counting, count, rows, cols, sides));
    return counting.used();
  }
  /// (T, panels * panel_width) of matrix i.
  numbers product(std::int64_t i, fg::matrix<float const> a) const {
    return product(i, a.rows, a.cols, [&](float* room, std::int64_t t, int n) {
      return left(room, a.middle_rows(t, n), n, a.cols);
    });
  }
  /// The same of rows that are rounded before, each alone.
  numbers product_of_rounded(std::int64_t i, fg::matrix<float const> a) const {
    using rounded = simd::rounded_rows<simd::panels<F>::products>;
    auto const size = rounded::size(a.cols);
    numbers room(std::size_t(left::size(1, a.cols))), all(std::size_t(a.rows * size), poison);
    std::vector<std::int32_t> places;  // the last row first
    for (std::int64_t t = 0; t < a.rows; ++t) {
      std::fill(room.begin(), room.end(), poison);
      places.push_back(std::int32_t(a.rows - 1 - t));
      left(room.data(), a.middle_rows(t, 1), 1, a.cols)
          .rows()
          .copy_finished(all.data() + places.back() * size);
    }
    fg::matrix<float const> const rows{all.data(), a.rows, size, size};
    return product(i, a.rows, a.cols, [&](float* to, std::int64_t t, int n) {
      return left(to, rounded{simd::row_list(rows, places.data() + t)}, n, a.cols);
    });
  }

 private:
  template <class Left>
  numbers product(std::int64_t i, std::int64_t T, std::int64_t K, Left const& rows) const {
    auto const columns = panels.size() * simd::panel_width;
    numbers room(std::size_t(left::size(T, K)), poison);
    numbers right(std::size_t(simd::right_room), poison);
    numbers y(std::size_t(T * columns), poison);
    std::int64_t const most = left::most(K);
    for (std::int64_t t = 0; t < T; t += most) {
      int const n = int(std::min(most, T - t));
      left const a_rows = rows(room.data(), t, n);
      a_rows.multiply(panels.matrix(i, right.data()), 0, panels.size(),
                      [&](std::int64_t p, float const* sums) {
                        for (int r = 0; r < n; ++r)
                          std::copy_n(sums + r * simd::panel_width, simd::panel_width,
                                      &y[std::size_t((t + r) * columns + p * simd::panel_width)]);
                      });
    }
    return y;
  }
};

/// f(t, n, y, alone) with the products of each row of a (T, K) among all rows and alone, for each of N outputs.
template <fg::format F, class Function>
void among_many_and_alone(coded<F> const& b, numbers const& a, int T, int K, int N, Function f) {
  numbers const many = b.product(0, view(a, T, K));
  auto const stride = many.size() / std::size_t(T);
  for (int t = 0; t < T; ++t) {
    numbers const alone = b.product(0, view(a, T, K).middle_rows(t, 1));
    for (int n = 0; n < N; ++n)
      f(t, n, many[std::size_t(t) * stride + std::size_t(n)], alone[std::size_t(n)]);
  }
}

/// The weights that a format keeps of w (N, K), by its definition.
template <fg::format F>
numbers kept(numbers w, int N, int K) {
  keep<F>(w.data(), N, K);
  return w;
}

/// What a product with a format takes of rows of K numbers, by its definition.
template <fg::format F>
numbers taken(numbers const& a, int K) {
  using unit = simd::unit<simd::panels<F>::products>;
  numbers made(a.size());
  if constexpr (simd::Integers<simd::panels<F>::products>) {
    std::int64_t const block = unit::block_units * unit::numbers;
    for (auto row = a.begin(); row != a.end(); row += K)
      for (std::int64_t k = 0; k < K; k += block) {
        std::int64_t const end = std::min<std::int64_t>(K, k + block);
        float most = 0;
        for (auto i = k; i < end; ++i) most = std::max(most, std::abs(row[i]));
        float step = std::ldexp(1.0f, std::ilogb(most) + 1 - unit::range), inverse = 1 / step;
        if (unit::range == 7) step = most / 127, inverse = 127 / most;  // bytes
        for (auto i = k; i < end; ++i)
          made[std::size_t(row - a.begin() + i)] =
              most == 0 ? 0 : float(std::nearbyint(double(row[i]) * inverse)) * step;
      }
  } else {
    std::transform(a.begin(), a.end(), made.begin(), bf16_of);
  }
  return made;
}

/// The bits that integers keep of their block's largest number, which docs/design.md gives.
#if defined(FINEGRAIN_BYTE_PRODUCTS)
static_assert(simd::unit<int8>::range == 7 && simd::unit<int4>::range == 7);
static_assert(simd::unit<int8>::block_units == 64 && simd::unit<int8_block>::block_units == 16 &&
              simd::unit<int4>::block_units == 64);
#elif FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__)
static_assert(simd::unit<int8>::range == 14 && simd::unit<int4>::range == 14);
#elif FINEGRAIN_VECTOR_BYTES == 32
static_assert(simd::unit<int8>::range == 12 && simd::unit<int4>::range == 14);
#endif

TEMPLATE_TEST_CASE_SIG("a product is that of the weights that the format keeps", "", EVERY_FORMAT) {
  for (auto [T, K, N] : {std::array<int, 3>{1, 1, 1},
                         {1, 1029, 150},
                         {2, 31, 40},
                         {4, 32, 32},
                         {5, 130, 150},
                         {13, 300, 70},
                         {14, 1029, 33},
                         {20, 5, 33},
                         {40, 16, 40},
                         {30, 853, 16},
                         {30, 1029, 97},
                         {113, 515, 48}}) {
    INFO("T " << T << ", K " << K << ", N " << N);
    numbers a = random_numbers(T * K, 1), w = random_numbers(2 * N * K, 2, 0.1);
    for (int k = 0; k < K; ++k)
      a[std::size_t(k)] = std::abs(a[std::size_t(k)]);  // a sum that grows
    guarded rows(T, K);
    rows = a;
    a = taken<F>(a, K);
    coded<F> const b(2, N, K, 1, w.data());
    for (int i = 0; i < 2; ++i) {
      numbers const y = b.product(i, rows.view());
      numbers const exact = kept<F>({w.begin() + i * N * K, w.begin() + (i + 1) * N * K}, N, K);
      std::int64_t const stride = b.panels.size() * simd::panel_width;
      int wrong = 0;
      for (int t = 0; t < T; ++t)
        for (int n = 0; n < stride; ++n) {
          double sum = 0, size = 0;
          for (int k = 0; k < K && n < N; ++k) {
            double const one =
                double(a[std::size_t(t * K + k)]) * double(exact[std::size_t(n * K + k)]);
            sum += one;
            size += std::abs(one);
          }
          wrong += !(std::abs(double(y[std::size_t(t * stride + n)]) - sum) <= 2e-6 * size);
        }
      CHECK(wrong == 0);
    }
  }
}

TEMPLATE_TEST_CASE_SIG("gate and up stand side by side in a coded panel", "", EVERY_FORMAT) {
  int const T = GENERATE(6, 13), K = 150, N = 200;
  numbers const a = random_numbers(T * K, 1), g = random_numbers(N * K, 2),
                u = random_numbers(N * K, 2 + (F != fp8));  // fp8 shares scales between neighbours
  coded<F> const both(1, N, K, 2, g.data(), u.data()), gate(1, N, K, 1, g.data()),
      up(1, N, K, 1, u.data());
  numbers const y = both.product(0, view(a, T, K)), one = gate.product(0, view(a, T, K)),
                two = up.product(0, view(a, T, K));
  std::int64_t const stride = both.panels.size() * simd::panel_width,
                     apart = gate.panels.size() * simd::panel_width;
  for (int t = 0; t < T; ++t)
    for (int n = 0; n < N; ++n) {
      auto const at =
          std::size_t(t * stride + n / simd::lanes * simd::panel_width + n % simd::lanes);
      REQUIRE(y[at] == one[std::size_t(t * apart + n)]);
      REQUIRE(y[at + simd::lanes] == two[std::size_t(t * apart + n)]);
    }
}

TEMPLATE_TEST_CASE_SIG(
    "infinity and NaN reach their own row, as they would a product of the kept weights", "",
    EVERY_FORMAT) {
  constexpr bool lost = simd::Integers<simd::panels<F>::products>;  // then they are all NaN
  int const K = 96, N = 40;
  numbers w = random_numbers(N * K, 1, 0.1);
  for (int n = 0; n < N; ++n) w[std::size_t(n * K + 40)] = float(n % 3 - 1) / 2;
  coded<F> const b(1, N, K, 1, w.data());
  auto const same = [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  for (int const T : {1, 2, 5, 9, 10, 13}) {
    numbers const plain = random_numbers(T * K, 2);
    numbers const expected = b.product(0, view(plain, T, K));
    for (float const odd : {INFINITY, -INFINITY, NAN}) {
      numbers a = plain;
      a[std::size_t((T - 1) * K + 40)] = odd;
      numbers const y = b.product(0, view(a, T, K));
      auto const stride = y.size() / std::size_t(T);
      for (std::size_t i = 0; i < y.size(); ++i) {
        std::size_t const n = i % stride;
        if (n >= N) continue;
        bool const own = i / stride == std::size_t(T - 1);
        REQUIRE(same(y[i], !own ? expected[i] : lost ? NAN : odd * float(int(n % 3) - 1)));
      }
    }
  }
}

TEMPLATE_TEST_CASE_SIG("rows that are rounded before have the same product", "", EVERY_FORMAT) {
  if constexpr (simd::rounded_rows<simd::panels<F>::products>::wanted) {
    int const K = GENERATE(1, 40, 774, 1777), N = 50;
    numbers const w = random_numbers(N * K, 2);
    coded<F> const b(1, N, K, 1, w.data());
    for (int const T : {1, 2, 9, 14, 15, 29, 40, 300}) {
      numbers a = random_numbers(T * K, 1);
      a[std::size_t(T / 2 * K)] = INFINITY;
      REQUIRE(same(b.product_of_rounded(0, view(a, T, K)), b.product(0, view(a, T, K))));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("a row's product with codes does not depend on the rows beside it", "",
                       EVERY_FORMAT) {
  int const T = 40, K = GENERATE(1777, 774), N = 50;
  numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
  coded<F> const b(1, N, K, 1, w.data());
  numbers const together = b.product(0, view(a, T, K));
  auto const stride = std::int64_t(together.size()) / T;
  for (int t = 0; t < T; ++t) {
    int const n = std::min(T - t, t % 29 + 1);  // few rows meet the codes, more what was decoded
    REQUIRE(same(b.product(0, view(a, T, K).middle_rows(t, n)), rows(together, stride, t, n)));
    numbers others(a.size(), poison);  // nor on whether these are finite
    std::copy_n(a.begin() + t * K, K, others.begin() + t * K);
    REQUIRE(
        same(rows(b.product(0, view(others, T, K)), stride, t, 1), rows(together, stride, t, 1)));
  }
}

TEMPLATE_TEST_CASE_SIG("numbers of any size have the same bits alone and among many rows", "",
                       EVERY_FORMAT) {
  int const T = 12, K = 200, N = 40;
  numbers const w = random_numbers(N * K, 2, 0.1), plain = random_numbers(T * K, 1);
  coded<F> const b(1, N, K, 1, w.data());
  float const odd = std::bit_cast<float>(0x7fffffffu);  // NaN, all of whose bits are set
  for (float const size : {1e-38f, 1e-30f, 1e-20f, 1e20f, 1e33f, 1e34f, 1e35f, 1e37f, 3e38f, odd}) {
    INFO("size " << size);
    numbers a = plain;
    for (std::size_t i = 0; i < a.size(); ++i)
      a[i] = i % 3 == 0 && !(size > 1) ? a[i] : std::clamp(a[i], -1.0f, 1.0f) * size;
    int wrong = 0;
    among_many_and_alone(b, a, T, K, N, [&](int, int, float y, float alone) {
      wrong += !(alone == y || (std::isnan(alone) && std::isnan(y)));
      if (!(size < 1e38f)) wrong += std::isfinite(y);
    });
    CHECK(wrong == 0);
  }
}

/// From 2^ so many on a number makes NaN where it is rounded to integers, infinities or NaN of fp8 where rows
/// have a part of codes' power: docs/design.md. Others have floats' own end.
template <fg::format F>
constexpr int end_of_numbers = [] {
  if (F == fp8) return simd::codec<fp8>::of_floats ? 68 : 128;
  if (!simd::Integers<simd::panels<F>::products>) return 128;
  if (F == int4) return 119;
  return F == int8 && (simd::byte_products || FINEGRAIN_VECTOR_BYTES == 64) ? 113 : 115;
}();

TEMPLATE_TEST_CASE_SIG("a number near the end of what floats hold makes its product or none at all",
                       "", EVERY_FORMAT) {
  constexpr bool rounded = simd::Integers<simd::panels<F>::products>;
  int const K = 160, N = 40;
  numbers const w = random_numbers(N * K, 1, 0.1), exact = kept<F>(w, N, K);
  coded<F> const b(1, N, K, 1, w.data());
  for (int const T : {1, 5, 12, 40}) {
    numbers const plain = random_numbers(T * K, 2);
    numbers const expected = b.product(0, view(plain, T, K));
    auto const stride = expected.size() / std::size_t(T), last = std::size_t(T - 1);
    for (int power = 60; power < 128; ++power)
      for (float const least : {std::ldexp(1.0f, power), -std::ldexp(1.0f, power)})
        for (float const large : {std::nextafter(least, 0.0f), least, 1.5f * least}) {
          INFO("T " << T << ", " << large);
          numbers a = plain;
          a[last * K + 40] = large;
          numbers const y = b.product(0, view(std::as_const(a), T, K));
          numbers const row = taken<F>({a.end() - K, a.end()}, K);
          float const met = std::abs(rounded ? large : row[40]);
          bool const none = !(met < std::ldexp(1.0, end_of_numbers<F>));
          int wrong = 0;
          for (std::size_t i = 0; i < last * stride; ++i)
            wrong += i % stride < N && y[i] != expected[i];
          for (std::size_t n = 0; n < N; ++n) {
            double sum = 0, size = 0;
            for (std::size_t k = 0; k < K; ++k) {
              double const one = double(row[k]) * double(exact[n * K + k]);
              sum += one;
              size += std::abs(one);
            }
            float const made = y[last * stride + n];
            bool const right = std::abs(double(made) - sum) <= 2e-6 * size;
            if (none)
              wrong += rounded ? !std::isnan(made) : std::isfinite(made);
            else if (rounded || (F == fp8 && power < 100))
              wrong += !right;
            else  // sums of codes overflow before their scale makes them smaller
              wrong += std::isfinite(made) && !right;
          }
          REQUIRE(wrong == 0);
        }
  }
}

TEMPLATE_TEST_CASE_SIG(
    "blocks of weights of any size are kept by their definition, few rows and many", "",
    EVERY_FORMAT) {
  int const K = GENERATE(36, 128, 416, 1029), N = 70, T = 40;
  numbers w = random_numbers(N * K, 1, 0.1);
  for (int n = 0; n < N; ++n)
    for (int k = 0; k < K; ++k) {
      int const block = n * 5 + k / 32 * 3, of_four = n * 7 + k / 128;
      float& x = w[std::size_t(n * K + k)];
      if (block % 13 == 0) x = 0;
      if (block % 17 == 1) x = std::copysign(0.3f, x);
      x *= std::ldexp(1.0f, of_four % 11 == 0 ? -133 : of_four % 11 - 5) / float(1 + block % 19);
    }
  numbers const a = taken<F>(random_numbers(T * K, 2), K), exact = kept<F>(w, N, K);
  coded<F> const b(1, N, K, 1, w.data());
  int wrong = 0;
  among_many_and_alone(b, a, T, K, N, [&](int t, int n, float y, float alone) {
    double sum = 0, size = 0;
    for (int k = 0; k < K; ++k) {
      double const one = double(a[std::size_t(t * K + k)]) * double(exact[std::size_t(n * K + k)]);
      sum += one;
      size += std::abs(one);
    }
    wrong += y != alone || !(std::abs(double(y) - sum) <= 2e-6 * size + 1e-43);
  });
  CHECK(wrong == 0);
}

TEST_CASE("an infinite weight makes every product with its row NaN in int4") {
  int const K = 160, N = 40, T = 20;
  numbers w = random_numbers(N * K, 1, 0.1), a = random_numbers(T * K, 2);
  numbers const others = coded<int4>(1, N, K, 1, w.data()).product(0, view(std::as_const(a), T, K));
  w[3 * K + 70] = INFINITY;
  w[9 * K + 150] = -INFINITY;
  coded<int4> const b(1, N, K, 1, w.data());
  for (int const rows : {1, T}) {
    numbers const y = b.product(0, view(std::as_const(a), T, K).middle_rows(0, rows));
    auto const stride = y.size() / std::size_t(rows);
    int wrong = 0;
    for (std::size_t i = 0; i < y.size(); ++i)
      if (i % stride < N)
        wrong += i % stride == 3 || i % stride == 9 ? !std::isnan(y[i]) : y[i] != others[i];
    CHECK(wrong == 0);
  }
}

TEST_CASE("int4's scales end where sums with few rows may be no floats and with many are") {
  int const K = 256, N = 40, T = 40;
  numbers const a = random_numbers(T * K, 2);
  for (int const e : {108, 112, 113, 114, 118, 126}) {
    CAPTURE(e);
    numbers w = random_numbers(N * K, 1, 0.1);
    for (int n = 0; n < N; ++n) {
      for (int k = 0; k < K; ++k)
        w[std::size_t(n * K + k)] = std::ldexp(w[std::size_t(n * K + k)], e);
      w[std::size_t(n * K + 70)] = std::ldexp(0.95f, e);  // the largest
    }
    coded<int4> const b(1, N, K, 1, w.data());
    int wrong = 0;
    among_many_and_alone(b, a, T, K, N, [&](int, int, float y, float alone) {
      bool const same = y == alone || (std::isnan(y) && std::isnan(alone));
      wrong += !same || std::isnan(y) != (e > 113);
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("a block's scale in fp8 ends where its weights leave products of floats no room") {
  bool const of_floats = simd::codec<fp8>::of_floats;
  int const K = 160, N = 40;
  for (int const T : {1, 5, 40})
    for (float const most : {1e20f, 1e23f, 2e23f}) {
      numbers w = random_numbers(N * K, 1, 0.1), a = random_numbers(T * K, 2, 1e-3);
      w[5 * K + 9] = most;  // of the first 128 numbers of k of all rows
      coded<fp8> const b(1, N, K, 1, w.data());
      numbers const y = b.product(0, view(std::as_const(a), T, K)), exact = kept<fp8>(w, N, K);
      auto const stride = y.size() / std::size_t(T);
      int wrong = 0;
      for (std::size_t t = 0; t < std::size_t(T); ++t) {
        double sum = 0;
        for (std::size_t k = 0; k < K; ++k)
          sum += double(bf16_of(a[t * K + k])) * double(exact[5 * K + k]);
        float const made = y[t * stride + 5];
        wrong += of_floats && most > 1.4e23f
                     ? std::isfinite(made)
                     : !(std::abs(double(made) - sum) <= 1e-5 * std::abs(sum));
      }
      CHECK(wrong == 0);
    }
}

TEST_CASE("codes of fp8 that are subnormal are multiplied as any others") {
  int const K = 300, N = 40;
  std::mt19937 random(5);
  auto const below = [&](int n) { return int(random() % unsigned(n)); };
  numbers w(N * K), a(60 * K);
  for (float& x : a) x = float(below(5) - 2);
  // multiples of the smallest code: here and there, everywhere, and a block of zeros
  for (int n = 0; n < N; ++n)
    for (int k = 0; k < K; ++k) {
      bool const often = n > 20 && k<128, never = n> 20 && k >= 128 && k < 256;
      float const code = float(below(15) - 7) * 0x1p-9f;
      w[std::size_t(n * K + k)] = never ? 0.0f : often || below(500) == 0 ? code : 0.25f;
    }
  for (int k = 5; k < K; k += 128) w[std::size_t(7 * K + k)] = 448;  // so that a scale is 1
  coded<fp8> const b(1, N, K, 1, w.data());
  for (int const T : {1, 2, 3, 6, 7, 12, 13, 15, 60}) {
    numbers const y = b.product(0, view(std::as_const(a), T, K));
    auto const stride = y.size() / std::size_t(T);
    int wrong = 0;
    for (int t = 0; t < T; ++t)
      for (int n = 0; n < N; ++n) {
        double sum = 0;
        for (int k = 0; k < K; ++k)
          sum += double(a[std::size_t(t * K + k)]) * double(w[std::size_t(n * K + k)]);
        wrong += y[std::size_t(t) * stride + std::size_t(n)] != float(sum);
      }
    INFO("T " << T);
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE_SIG("a worker has room for the rows of every format", "", EVERY_FORMAT) {
  using left = typename coded<F>::left;
  int small = 0;
  for (std::int64_t K = 1; K < 40000; K += 7)
    for (std::int64_t const T : {1, 7, 10, 13, 96, 1000})
      small += fg::expert_room::rows_size(T, K) < left::size(T, K);
  CHECK(small == 0);
}

TEST_CASE("weights of zeros, and ones too small for a scale, are kept as zeros") {
  for (float const tiny : {0.0f, 1e-40f}) {
    numbers w(40 * 64, tiny), a(3 * 64, 1);
    auto const all_zero = [&](auto const& b) {
      for (float const y : b.product(0, view(std::as_const(a), 3, 64))) CHECK(std::abs(y) < 1e-37f);
    };
    all_zero(coded<fp8>(1, 40, 64, 1, w.data()));
    all_zero(coded<int8>(1, 40, 64, 1, w.data()));
    all_zero(coded<int8_block>(1, 40, 64, 1, w.data()));
    all_zero(coded<int4>(1, 40, 64, 1, w.data()));
  }
}

TEST_CASE("codes and scales take the bytes that they should") {
  auto const bits = []<fg::format F>(coded<F> const*) {
    return 8.0 * double(coded<F>::bytes(3, 1408, 2048, 2)) / (3.0 * 2 * 1408 * 2048);
  };
  CHECK(bits(static_cast<coded<int8>*>(nullptr)) <= 8.01);
  CHECK(bits(static_cast<coded<int8_block>*>(nullptr)) <= 8.51);
  CHECK(bits(static_cast<coded<fp8>*>(nullptr)) <= 8.13);
  CHECK(bits(static_cast<coded<int4>*>(nullptr)) <= 4.51);
}

}  // namespace
