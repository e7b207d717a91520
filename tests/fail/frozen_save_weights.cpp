// expect: save_weights: this executor does not say how it packs weights: declare packed_form<X>
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/reference/reference.hpp>

namespace fg = finegrain;

#ifdef FIXED
using executor = fg::cpu;
#else
using executor = fg::basic_reference<float>;
#endif

void run(fg::network<fg::linear<8, 8>, executor>& net) {
  auto fast = fg::quantize<fg::format::bf16>(net);
  fg::save_weights(fast, "weights.safetensors");
}
