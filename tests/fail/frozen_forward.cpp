// expect: frozen: its weights are packed and learn no longer, and nothing is kept for backward: call it, or infer
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net, fg::matrix<float> x, fg::matrix<float> y) {
  auto fast = fg::quantize<fg::format::bf16>(net);
#ifdef FIXED
  fast(x, y);
  fast.infer({.tokens = x.rows}, x, y);
#else
  fast.forward({.tokens = x.rows}, x, y);
#endif
}
