// expect: this network begins with an embedding: it reads token ids, not numbers
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/train/trainer.hpp>
#include <vector>

namespace fg = finegrain;

void run(fg::trainer<fg::network<fg::embedding<100, 8>, fg::cpu>>& train,
         std::vector<std::int32_t> const& ids, fg::matrix<float const> x) {
#ifdef FIXED
  train.evaluate(ids, x);
#else
  train.evaluate(x, x);
#endif
}
