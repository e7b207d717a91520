// expect: dense_layers must lie between 0 and layers
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::deepseek_v3;
#ifndef FIXED
  a.dense_layers = 62;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
