// expect: moe.hidden must equal hidden
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::deepseek_moe_16b;
#ifndef FIXED
  a.moe.hidden = 4096;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
