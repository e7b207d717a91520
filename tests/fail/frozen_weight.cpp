// expect: frozen: its weights are packed and learn no longer, and nothing is kept for backward: call it, or infer
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

#ifdef FIXED
float first(fg::network<fg::linear<8, 8>, fg::cpu> const& net) {
#else
float first(fg::frozen<fg::linear<8, 8>, fg::cpu, fg::format::bf16> const& net) {
#endif
  return net.weight("w")(0, 0);
}
