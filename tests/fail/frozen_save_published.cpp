// expect: save_published: other programs read no packed weights: save the network that they were made
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net) {
  auto fast = fg::quantize<fg::format::bf16>(net);
#ifdef FIXED
  fg::save_published(net, "weights.safetensors");
#else
  fg::save_published(fast, "weights", "layers.0.");
#endif
}
