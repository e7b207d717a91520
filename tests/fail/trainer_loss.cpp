// expect: a loss of your own is called, const, with (X const& on, std::int64_t first, matrix<S const> y
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/train/trainer.hpp>
#include <vector>

namespace fg = finegrain;

void run(fg::trainer<fg::network<fg::linear<8, 8>, fg::cpu>>& train, fg::matrix<float const> x) {
#ifdef FIXED
  train.step(
      x, [](auto const&, std::int64_t, fg::matrix<float const>, fg::matrix<float>) { return 0.0; });
#else
  train.step(x, [](fg::matrix<float const>, fg::matrix<float>) { return 0.0; });
#endif
}
