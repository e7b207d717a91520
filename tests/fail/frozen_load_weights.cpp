// expect: load_weights: a frozen network is made of a file anew: load_weights<N>(path)
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net) {
  auto fast = fg::quantize<fg::format::bf16>(net);
#ifdef FIXED
  fast = fg::load_weights<decltype(fast)>("weights.safetensors");
#else
  fg::load_weights(fast, "weights");
#endif
}
