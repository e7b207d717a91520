// expect: heads must divide evenly among kv_heads
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::mixtral_8x7b;
#ifndef FIXED
  a.kv_heads = 5;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
