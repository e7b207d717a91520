// How weights start.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/plan/init.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

template <class E>
std::vector<double> start(fg::initialisation how, fg::parallel threads = {}) {
  std::vector<double> numbers(std::size_t(fg::weights_size<E>()), 0.0);
  fg::initialise(fg::list_weights<E>(), numbers.data(), how, threads);
  return numbers;
}

/// The numbers of one weight, by its name.
template <class E>
std::vector<double> weight(std::vector<double> const& numbers, std::string const& name) {
  for (auto const& entry : fg::list_weights<E>())
    if (entry.name == name) {
      auto const at = numbers.begin() + entry.offset;
      return {at, at + entry.rows * entry.cols};
    }
  return {};
}

}  // namespace

TEST_CASE("normal numbers have mean 0, deviation 1 and stay within six deviations") {
  double sum = 0, squares = 0, fourth = 0, most = 0;
  constexpr int n = 200'000;
  for (std::uint64_t i = 0; i < n; ++i) {
    double const x = fg::random_normal(5, i);
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    most = std::max(most, std::abs(x));
  }
  CHECK(std::abs(sum / n) < 0.01);
  CHECK(squares / n == Approx(1).epsilon(0.02));
  CHECK(fourth / n == Approx(3 - 1.2 / 12).epsilon(0.03));  // twelve uniform numbers
  CHECK(most <= 6);
  CHECK(most > 3.5);
}

TEST_CASE("uniform numbers fill [0, 1) evenly") {
  int counts[10] = {};
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    double const x = fg::random_uniform(8, i);
    REQUIRE((x >= 0 && x < 1));
    ++counts[int(10 * x)];
  }
  for (int count : counts) CHECK(count == Approx(10'000).epsilon(0.05));
}

TEST_CASE("the generator's words are fixed for ever") {
  STATIC_REQUIRE(fg::random_word(0, 0) == 0xe220a8397b1dcdafu);  // SplitMix64's first, from 0
  STATIC_REQUIRE(fg::random_word(0, 1) == 0x6e789e6aa1b965f4u);
  STATIC_REQUIRE(fg::random_word(1, 0) != fg::random_word(0, 1));
}

TEST_CASE("matrices start with the deviation asked for, gains at 1, biases at 0") {
  auto const numbers = start<tiny::formed_decoder>({.deviation = 0.02, .seed = 3});
  for (auto const& entry : fg::list_weights<tiny::formed_decoder>()) {
    CAPTURE(entry.name);
    auto const values = weight<tiny::formed_decoder>(numbers, entry.name);
    double sum = 0, squares = 0;
    for (double x : values) {
      sum += x;
      squares += x * x;
    }
    double const n = double(values.size());
    if (entry.role == fg::role::gain) {
      CHECK(sum == n);
      CHECK(squares == n);
    } else if (entry.role == fg::role::bias || entry.role == fg::role::selection_bias) {
      CHECK(squares == 0);
    } else {
      CHECK(std::sqrt(squares / n) == Approx(0.02).epsilon(4 / std::sqrt(2 * n)));
      CHECK(std::abs(sum / n) < 4 * 0.02 / std::sqrt(n));
    }
  }
}

TEST_CASE("with a deviation of 0 matrices are 0, and nothing else starts otherwise") {
  auto const none = start<tiny::formed_decoder>({.deviation = 0, .seed = 3});
  auto const some = start<tiny::formed_decoder>({.deviation = 1, .seed = 3});
  for (auto const& entry : fg::list_weights<tiny::formed_decoder>()) {
    CAPTURE(entry.name);
    auto const values = weight<tiny::formed_decoder>(none, entry.name);
    if (entry.role == fg::role::projection)
      for (double const x : values) CHECK((x == 0 && !std::signbit(x)));
    else
      CHECK(values == weight<tiny::formed_decoder>(some, entry.name));
  }
}

TEST_CASE("a seed's weights have the same bits for any number of threads") {
  auto const one = start<tiny::decoder>({.seed = 3});
  for (int workers : {2, 5}) {
    fg::thread_pool pool(workers);
    CHECK(start<tiny::decoder>({.seed = 3}, pool) == one);
  }
  CHECK(start<tiny::decoder>({.seed = 4}) != one);
}

TEST_CASE("weights of different names differ; a layer starts alike whatever stands before it") {
  constexpr auto alone = fg::repeat<1>(fg::linear<8, 8>{}) | fg::head<8, 4>{};
  constexpr auto behind = fg::repeat<3>(fg::linear<8, 8>{}) | fg::rmsnorm<8>{} | fg::head<8, 4>{};
  using A = std::remove_cvref_t<decltype(alone)>;
  using B = std::remove_cvref_t<decltype(behind)>;
  auto const a = start<A>({.seed = 1}), b = start<B>({.seed = 1});
  std::string const first = "layers.0.linear.weight", second = "layers.1.linear.weight";
  REQUIRE(weight<A>(a, first).size() == 64);
  REQUIRE(weight<B>(b, second).size() == 64);
  CHECK(weight<A>(a, first) == weight<B>(b, first));
  CHECK(weight<A>(a, "head.weight") == weight<B>(b, "head.weight"));
  CHECK(weight<B>(b, first) != weight<B>(b, second));
}
