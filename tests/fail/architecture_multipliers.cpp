// expect: multipliers: each must lie between 1e-6 and 1e6
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::mixtral_8x7b;
#ifndef FIXED
  a.multipliers.residual = 1e39;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
