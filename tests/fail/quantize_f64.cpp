// expect: frozen: weights are stored in f32, bf16, fp8, int8, int8_block or int4
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto format = fg::format::f32;
#else
constexpr auto format = fg::format::f64;
#endif
auto run(fg::network<fg::linear<8, 8>, fg::cpu>& net) { return fg::quantize<format>(net); }
