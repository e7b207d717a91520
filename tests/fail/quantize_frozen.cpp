// expect: quantize: this network is frozen already: quantize the one that it was made of
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

void run(fg::network<fg::linear<8, 8>, fg::cpu>& net) {
  auto half = fg::quantize<fg::format::bf16>(net);
#ifdef FIXED
  auto fast = fg::quantize<fg::format::int4>(net);
#else
  auto fast = fg::quantize<fg::format::int4>(half);
#endif
}
