// expect: load_published: a frozen network is made of files anew: load_published<N>(path)
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net) {
  auto fast = fg::quantize<fg::format::bf16>(net);
#ifdef FIXED
  fast = fg::load_published<decltype(fast)>("weights");
#else
  fg::load_published(fast, "weights");
#endif
}
