// Laws of base/wide.hpp: each lane is what a scalar would be.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/base/wide.hpp>
#include <limits>
#include <vector>

#include "../catch.hpp"

namespace wide = finegrain::wide;

namespace {

/// Numbers of every kind, a few of each, in no order.
template <class S>
std::vector<S> numbers() {
  using limits = std::numeric_limits<S>;
  std::vector<S> all{0, -S(0), 1, 2, 0.25, limits::infinity(), limits::max(), limits::min()};
  all.insert(all.end(), {limits::denorm_min(), limits::epsilon(), 3, 1 + limits::epsilon()});
  for (int i = 0; i < 1000; ++i) all.push_back(std::exp(S(std::sin(i) * 80)));
  while (all.size() % 64 != 0) all.push_back(S(all.size()));
  return all;
}

template <class S>
bool same_bits(S a, S b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("a square root is that of each lane, in bits", "", float, double) {
  constexpr std::int64_t lanes = wide::lanes<TestType>;
  std::vector<TestType> const x = numbers<TestType>();
  for (std::size_t i = 0; i < x.size(); i += lanes) {
    TestType root[lanes];
    wide::store(root, wide::square_root(wide::load(x.data() + i)));
    for (std::size_t j = 0; j < lanes; ++j) REQUIRE(same_bits(root[j], std::sqrt(x[i + j])));
  }
  TestType root[lanes];
  wide::store(root, wide::square_root(wide::broadcast(TestType(-1))));
  for (TestType const r : root) CHECK(std::isnan(r));
}

TEMPLATE_TEST_CASE("a product is added in one rounding or in two, in every lane alike", "", float,
                   double) {
  using V = wide::vec<TestType>;
  constexpr std::int64_t lanes = wide::lanes<TestType>;
  // (1 + e)(1 - e) - 1 = -e^2, or 0 where the product is rounded first.
  TestType const e = std::numeric_limits<TestType>::epsilon();
  V sum = wide::broadcast(TestType(-1));
  wide::add_product(wide::broadcast(1 + e), wide::broadcast(1 - e), sum);
  TestType at[lanes];
  wide::store(at, sum);
  CHECK((at[0] == -e * e || at[0] == 0));
  for (TestType const s : at) CHECK(s == at[0]);

  std::vector<TestType> a(lanes), b(lanes), c(lanes);
  for (int i = 0; i < lanes; ++i) {
    a[std::size_t(i)] = TestType(i + 1);
    b[std::size_t(i)] = TestType(7 - 3 * i);
    c[std::size_t(i)] = TestType(i * i);
  }
  sum = wide::load(c.data());
  wide::add_product(wide::load(a.data()), wide::load(b.data()), sum);
  wide::store(at, sum);
  for (std::size_t i = 0; i < lanes; ++i) CHECK(at[i] == a[i] * b[i] + c[i]);
}

TEMPLATE_TEST_CASE("numbers of any type are read as doubles, and none behind them", "", float,
                   double, std::int16_t) {
  constexpr std::int64_t lanes = wide::lanes<double>;
  std::vector<TestType> x(lanes);  // the sanitizer watches its end
  for (int i = 0; i < lanes; ++i) x[std::size_t(i)] = TestType(100 / (i + 3) - 9);
  double at[lanes];
  wide::store(at, wide::load_doubles(x.data()));
  for (std::size_t i = 0; i < lanes; ++i) CHECK(at[i] == double(x[i]));
}

TEST_CASE("a number that no register knows is one lane") {
  long double const x = 2;
  CHECK(wide::lanes<long double> == 1);
  CHECK(wide::square_root(wide::load(&x)) == std::sqrt(x));
}
