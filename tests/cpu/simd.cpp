// A vector register of floats, whatever its width.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/cpu/simd.hpp>
#include <limits>

#include "../catch.hpp"

namespace simd = finegrain::simd;

TEST_CASE("exp is within two units in the last place of the exact one over its whole range") {
  double worst = 0;
  for (double x = -87; x < 88; x += 0.00137) {
    float const at = static_cast<float>(x), got = simd::exp(simd::broadcast(at))[0];
    double const exact = std::exp(static_cast<double>(at));
    worst = std::max(worst, std::abs(static_cast<double>(got) - exact) / exact);
  }
  CHECK(worst < 2 * 0x1p-23);
}

TEST_CASE("exp keeps 0, the infinities and NaN") {
  float const inf = std::numeric_limits<float>::infinity();
  CHECK(simd::exp(simd::broadcast(0))[0] == 1);
  CHECK(simd::exp(simd::broadcast(-0.0f))[0] == 1);
  CHECK(simd::exp(simd::broadcast(-inf))[0] == 0);
  CHECK(simd::exp(simd::broadcast(-1000))[0] == 0);
  CHECK(simd::exp(simd::broadcast(inf))[0] == inf);
  CHECK(simd::exp(simd::broadcast(1000))[0] == inf);
  CHECK(std::isnan(simd::exp(simd::broadcast(NAN))[0]));
  CHECK(simd::sigmoid(simd::broadcast(-1000))[0] == 0);
  CHECK(simd::sigmoid(simd::broadcast(1000))[0] == 1);
  CHECK(std::isnan(simd::sigmoid(simd::broadcast(NAN))[0]));
}

TEST_CASE("broadcast gives every lane the number itself, minus zero too") {
  for (float const x : {1.5f, -0.0f, 0.0f})
    for (int i = 0; i < simd::lanes; ++i) {
      CHECK(simd::broadcast(x)[i] == x);
      CHECK(std::signbit(simd::broadcast(x)[i]) == std::signbit(x));
    }
}

TEST_CASE("transpose exchanges rows and lanes; of few rows the others are zeros") {
  for (int const n : {1, simd::lanes / 2, simd::lanes / 2 + 1, simd::lanes}) {
    float numbers[simd::lanes][simd::lanes + 1];
    float const* from[simd::lanes]{};  // those that are not there are not read
    simd::vec row[simd::lanes], column[simd::lanes];
    int there = 0;
    simd::as_rows(n, [&]<int Rows>() {
      there = Rows;
      for (int r = 0; r < simd::lanes; ++r) {
        row[r] = simd::broadcast(NAN);
        for (int c = 0; c < simd::lanes && r < Rows; ++c)
          row[r][c] = numbers[r][c + 1] = static_cast<float>(100 * r + c);
        if (r < Rows) from[r] = numbers[r];
      }
      simd::transpose<Rows>(row);
      simd::transpose<Rows>(from, 1, column);
    });
    CHECK(n <= there);
    for (int r = 0; r < simd::lanes; ++r)
      for (int c = 0; c < simd::lanes; ++c) {
        CHECK(row[r][c] == (c < there ? static_cast<float>(100 * c + r) : 0));
        CHECK(column[r][c] == row[r][c]);
      }
  }
}

TEST_CASE("the first n lanes are loaded and stored, and nothing behind them") {
  float from[simd::lanes], to[simd::lanes];
  for (int n = 0; n < simd::lanes; ++n) {
    for (int i = 0; i < simd::lanes; ++i)
      from[i] = i < n ? static_cast<float>(i + 1) : NAN, to[i] = 7;
    simd::vec const v = simd::load_first(from, n);
    simd::store_first(to, v, n);
    for (int i = 0; i < simd::lanes; ++i) {
      CHECK(v[i] == (i < n ? static_cast<float>(i + 1) : 0));
      CHECK(to[i] == (i < n ? static_cast<float>(i + 1) : 7));
    }
  }
}

TEST_CASE("total adds and largest compares all lanes") {
  simd::vec v;
  for (int i = 0; i < simd::lanes; ++i) v[i] = static_cast<float>(1 << i);
  CHECK(simd::total(v) == static_cast<float>((1 << simd::lanes) - 1));
  for (int i = 0; i < simd::lanes; ++i) {
    simd::vec w = simd::broadcast(-3);
    w[i] = -2;
    CHECK(simd::largest(w) == -2);
  }
}
