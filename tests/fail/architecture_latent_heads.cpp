// expect: latent attention has head sizes of its own
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::deepseek_v2;
#ifndef FIXED
  a.head_dim = 128;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
