// Means of training between evaluations.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/training_means.hpp>
#include <limits>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {
fg::routing_log routed(std::vector<std::int64_t> load, std::vector<std::int64_t> dropped) {
  fg::routing_log log;
  for (int layer = 0; layer < 2; ++layer) {
    log.layers.emplace_back(2);
    log.layers.back().load = load;
    log.layers.back().dropped = dropped;
    dropped = {0, 0};
  }
  return log;
}
}  // namespace

TEST_CASE("Losses and norms are of steps that changed something, routing is of all") {
  fg::training_means means;
  means.add({.loss = 3, .balance_loss = 0.5, .gradient_norm = 2}, routed({6, 2}, {2, 0}));
  means.add({.loss = 5, .balance_loss = 0.25, .gradient_norm = 1}, routed({4, 4}, {0, 0}));
  means.add({.loss = 9, .gradient_norm = std::numeric_limits<double>::infinity()},
            routed({8, 0}, {4, 0}));
  CHECK(means.steps() == 3);
  CHECK(means.skipped() == 1);
  CHECK(means.values() == std::vector<double>{4, 0.375, 1.5, 1, 1.5, 0.125, 0.25, 0});
  CHECK(fg::training_means::names(2).size() == means.values().size());
  CHECK(fg::training_means::names(1).size() == 6);
  CHECK(fg::training_means::names(0).size() == fg::training_means().values().size());
}

TEST_CASE("Sums that were written down go on as they would have, to the bit") {
  fg::training_means whole, first;
  auto const add = [](fg::training_means& to, int step) {
    to.add(
        {.loss = 1.0 / (step + 3), .balance_loss = 0.1 * step, .gradient_norm = 1.0 / (step + 7)},
        routed({step, 3}, {step / 2, 1}));
  };
  for (int step = 0; step < 9; ++step) add(whole, step);
  for (int step = 0; step < 4; ++step) add(first, step);
  fg::training_means second(fg::record::parse(first.line().line()).value());
  for (int step = 4; step < 9; ++step) add(second, step);
  CHECK(second.values() == whole.values());
  CHECK(second.line() == whole.line());
}
