// Cross-entropy on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/loss.hpp>
#include <finegrain/reference/loss.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("cross-entropy and its gradient agree with the specification") {
  for (auto [T, V] : {std::pair{1, 1}, {3, 7}, {100, 256}, {5, 1003}}) {
    numbers const logits = random_numbers(T * V, 1, 3);
    std::vector<double> const wide(logits.begin(), logits.end());
    std::vector<std::int32_t> targets;
    for (int t = 0; t < T; ++t) targets.push_back(t % 4 == 2 ? -1 : t * 31 % V);
    numbers d(logits.size(), poison);
    std::vector<double> exact(wide.size());
    double const loss = cross_entropy(fg::cpu(), view(logits, T, V), targets, 0.25, view(d, T, V));
    double const expected = cross_entropy(fg::basic_reference<double>(), view(wide, T, V), targets,
                                          0.25, view(exact, T, V));
    CHECK(std::abs(loss - expected) <= 1e-6 * (1 + expected));
    CHECK(difference(exact, d) < 1e-6);
    CHECK(cross_entropy(fg::cpu(), view(logits, T, V), targets, 0.25, {}) == loss);
  }
}

TEST_CASE("cross-entropy is the same for any number of threads, and 0 for no tokens") {
  numbers const logits = random_numbers(300 * 50, 1);
  std::vector<std::int32_t> const targets(300, 49);
  double const one = cross_entropy(fg::cpu(fg::parallel{}), view(logits, 300, 50), targets, 1, {});
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    CHECK(cross_entropy(fg::cpu(pool), view(logits, 300, 50), targets, 1, {}) == one);
  }
  CHECK(cross_entropy(fg::cpu(), {nullptr, 0, 50}, {}, 1, {}) == 0);
}

TEST_CASE("the largest logit counts wherever it stands") {
  for (int V : {1, 2, 15, 16, 17, 31, 32, 33, 100})
    for (int at = 0; at < V; ++at) {
      numbers logits(std::size_t(V), -200);
      logits[std::size_t(at)] = 700;  // with another one taken off, its exponential is infinite
      CHECK(cross_entropy(fg::cpu(), view(std::as_const(logits), 1, V), std::vector{at}, 1, {}) ==
            0);
    }
}

TEST_CASE("large logits overflow nothing, and nothing behind a row is read") {
  guarded logits(2, 19), d(2, 19);
  logits = numbers(38, -1e30f);
  logits.view()(0, 3) = logits.view()(1, 18) = 1e30f;
  CHECK(cross_entropy(fg::cpu(), logits.view(), std::vector<std::int32_t>{3, 18}, 1, d.view()) ==
        0);
  for (int i = 0; i < 38; ++i) CHECK(d.data()[i] == 0);
}

}  // namespace
