// expect: this network reads numbers: token ids are for one that begins with an embedding
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/train/trainer.hpp>
#include <vector>

namespace fg = finegrain;

void run(fg::trainer<fg::network<fg::linear<8, 8>, fg::cpu>>& train,
         std::vector<std::int32_t> const& ids, fg::matrix<float const> x) {
#ifdef FIXED
  train.step(x, ids);
#else
  train.step(ids, ids);
#endif
}
