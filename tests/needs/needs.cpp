// A program whose .cu file holds one network's code: that it links is half of the test.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <cmath>
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/finegrain.hpp>
#include <vector>

#include "../catch.hpp"

TEST_CASE("a network trains with the code that its expression needs") {
  namespace fg = finegrain;
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  fg::network<needs::model, fg::cuda> net;
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  std::vector<std::int32_t> ids, targets;
  for (int i = 0; i < 128; ++i) ids.push_back(i % 7), targets.push_back((i + 1) % 7);
  fg::batch const b{.tokens = 128, .ids = ids};
  double const first = train.step(b, targets).loss;
  double last = first;
  for (int i = 0; i < 20; ++i) last = train.step(b, targets).loss;
  CHECK(std::isfinite(last));
  CHECK(last < first);
}
