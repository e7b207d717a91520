// expect: trainer: a network of weights that learn is needed; a frozen one has none
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>
#include <finegrain/train/trainer.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net) {
#ifdef FIXED
  fg::trainer train{net};
#else
  auto fast = fg::quantize<fg::format::bf16>(net);
  fg::trainer train{fast};
#endif
}
