// Cross-entropy on every executor, and squared error.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/cpu/loss.hpp>
#include <finegrain/plan/init.hpp>
#include <finegrain/reference/loss.hpp>
#include <finegrain/train/loss.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

/// Logits of some tokens, room for their gradient, and targets of which every third is left out.
template <class S>
struct sample {
  std::int64_t tokens, classes;
  std::vector<S> logits, gradient;
  std::vector<std::int32_t> targets;

  sample(std::int64_t tokens, std::int64_t classes, double size)
      : tokens(tokens),
        classes(classes),
        logits(std::size_t(tokens * classes)),
        gradient(logits.size(), S(NAN)) {
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = S(size * fg::random_normal(1, i));
    for (std::uint64_t t = 0; t < std::uint64_t(tokens); ++t)
      targets.push_back(t % 3 == 2 ? -1
                                   : std::int32_t(fg::random_word(2, t) % std::uint64_t(classes)));
  }
  fg::matrix<S const> view() const { return {logits.data(), tokens, classes}; }
  fg::matrix<S> dview() { return {gradient.data(), tokens, classes}; }

  /// The same in long double.
  long double loss() const {
    long double total = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (targets[std::size_t(t)] < 0) continue;
      long double sum = 0, most = -INFINITY;
      for (std::int64_t v = 0; v < classes; ++v) most = std::max<long double>(most, view()(t, v));
      for (std::int64_t v = 0; v < classes; ++v) sum += std::exp(view()(t, v) - most);
      total += std::log(sum) + most - view()(t, targets[std::size_t(t)]);
    }
    return total;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("cross-entropy and its gradient are what the formula says", "", fg::cpu,
                   fg::basic_reference<float>, fg::basic_reference<double>) {
  using S = typename TestType::scalar;
  double const tolerance = sizeof(S) == 4 ? 3e-6 : 1e-14;
  for (auto [tokens, classes, size] : {std::tuple<int, int, double>{1, 1, 1},
                                       {2, 2, 1},
                                       {7, 5, 3},
                                       {130, 37, 10},
                                       {3, 1030, 50}}) {
    CAPTURE(tokens, classes);
    sample<S> s(tokens, classes, size);
    double const scale = 0.25;
    double const loss = cross_entropy(TestType{}, s.view(), s.targets, scale, s.dview());
    CHECK(loss == Approx(double(s.loss())).epsilon(tolerance).margin(tolerance));
    CHECK(cross_entropy(TestType{}, s.view(), s.targets, scale, {}) == loss);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::int32_t const target = s.targets[std::size_t(t)];
      double sum = 0, total = 0, most = -INFINITY;
      for (std::int64_t v = 0; v < classes; ++v) most = std::max(most, double(s.view()(t, v)));
      for (std::int64_t v = 0; v < classes; ++v) total += std::exp(double(s.view()(t, v)) - most);
      for (std::int64_t v = 0; v < classes; ++v) {
        double const p = std::exp(double(s.view()(t, v)) - most) / total;
        double const right = target < 0 ? 0 : scale * (p - (v == target));
        CHECK(std::abs(double(s.dview()(t, v)) - right) <= tolerance);
        sum += double(s.dview()(t, v));
      }
      CHECK(std::abs(sum) < 10 * tolerance);  // a row's gradient adds up to nothing
    }
  }
}

TEMPLATE_TEST_CASE("a gradient may take the place of what it is the gradient of", "", fg::cpu,
                   fg::basic_reference<float>, fg::basic_reference<double>) {
  using S = typename TestType::scalar;
  for (auto [tokens, classes] : {std::pair{1, 1}, {7, 5}, {130, 37}, {3, 1030}}) {
    sample<S> s(tokens, classes, 3);
    std::vector<S> const wanted(s.logits.size(), S(0.5));
    fg::matrix<S const> const target(wanted.data(), tokens, classes);
    double const entropy = cross_entropy(TestType{}, s.view(), s.targets, 0.25, s.dview());
    std::vector<S> both = s.logits;
    fg::matrix<S> const in_place(both.data(), tokens, classes);
    CHECK(cross_entropy(TestType{}, in_place, s.targets, 0.25, in_place) == entropy);
    CHECK(both == s.gradient);
    double const square = squared_error(TestType{}, s.view(), target, 0.25, s.dview());
    both = s.logits;
    CHECK(squared_error(TestType{}, fg::matrix<S const>(in_place), target, 0.25, in_place) ==
          square);
    CHECK(both == s.gradient);
  }
}

TEMPLATE_TEST_CASE("equal logits cost log V each, however large they are", "", fg::cpu,
                   fg::basic_reference<float>, fg::basic_reference<double>) {
  using S = typename TestType::scalar;
  for (double value : {0.0, 1e4, -1e4}) {
    std::vector<S> const logits(3 * 50, S(value));
    std::vector<std::int32_t> const targets{0, -1, 49};
    double const loss = cross_entropy(TestType{}, fg::matrix<S const>(logits.data(), 3, 50),
                                      std::span<std::int32_t const>(targets), 1.0, fg::matrix<S>());
    CHECK(loss == Approx(2 * std::log(50.0)).epsilon(1e-6));
  }
}

TEMPLATE_TEST_CASE("no tokens, or none that count, cost nothing", "", fg::cpu,
                   fg::basic_reference<double>) {
  using S = typename TestType::scalar;
  CHECK(cross_entropy(TestType{}, fg::matrix<S const>(nullptr, 0, 5),
                      std::span<std::int32_t const>(), 1.0, fg::matrix<S>(nullptr, 0, 5)) == 0);
  sample<S> s(4, 5, 1);
  std::fill(s.targets.begin(), s.targets.end(), -100);
  CHECK(cross_entropy(TestType{}, s.view(), s.targets, 1.0, s.dview()) == 0);
  CHECK(s.gradient == std::vector<S>(20, S(0)));
}

TEST_CASE("losses have the same bits for any number of threads") {
  sample<float> s(301, 67, 3);
  std::vector<float> const target(s.logits.size(), 0.5f);
  fg::matrix<float const> const wanted(target.data(), s.tokens, s.classes);
  double const entropy = cross_entropy(fg::cpu(fg::parallel{}), s.view(), s.targets, 1, s.dview());
  auto const first = s.gradient;
  double const square = squared_error(fg::cpu(fg::parallel{}), s.view(), wanted, 1, s.dview());
  auto const second = s.gradient;
  for (int workers : {2, 3}) {
    fg::thread_pool pool(workers);
    CHECK(cross_entropy(fg::cpu(pool), s.view(), s.targets, 1, s.dview()) == entropy);
    CHECK(s.gradient == first);
    CHECK(squared_error(fg::cpu(pool), s.view(), wanted, 1, s.dview()) == square);
    CHECK(s.gradient == second);
  }
}

TEST_CASE("squared error is the sum of squares, its gradient twice the difference") {
  double const y[] = {1, 2, 3, 4, 5, 6}, target[] = {1, 0, 3.5, 4, 5, 9};
  double dy[6];
  fg::basic_reference<double> const on;
  fg::matrix<double const> const a(y, 2, 3), b(target, 2, 3);
  CHECK(fg::squared_error(on, a, b, 0.5, fg::matrix<double>(dy, 2, 3)) == 4 + 0.25 + 9);
  CHECK(std::vector<double>(dy, dy + 6) == std::vector<double>{0, 2, -0.5, 0, 0, -3});
  CHECK(fg::squared_error(on, a, b, 0.5, fg::matrix<double>()) == 4 + 0.25 + 9);
}

TEST_CASE("targets are counted, and refused when they are too many or unknown") {
  std::vector<std::int32_t> const targets{0, -1, 4, -100};
  CHECK(fg::count_targets(targets, 4, 5) == 2);
  CHECK(fg::count_targets({}, 0, 5) == 0);
  CHECK_THROWS_WITH(fg::count_targets(targets, 3, 5), "the batch has 3 tokens and 4 targets");
  CHECK_THROWS_WITH(fg::count_targets(targets, 4, 4),
                    "target 2 is 4; the network tells 4 classes apart");
}
