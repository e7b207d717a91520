// expect: frozen: its weights are packed and learn no longer, and nothing is kept for backward: call it, or infer
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

#ifdef FIXED
void run(fg::network<fg::linear<8, 8>, fg::cpu>& net, fg::matrix<float> dy) {
#else
void run(fg::frozen<fg::linear<8, 8>, fg::cpu, fg::format::bf16>& net, fg::matrix<float> dy) {
#endif
  net.backward(dy);
}
