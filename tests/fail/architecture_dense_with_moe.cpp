// expect: a model whose layers are all dense must not have a moe
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

namespace fg = finegrain;

constexpr fg::architecture changed() {
  fg::architecture a = fg::presets::llama2_7b;
#ifndef FIXED
  a.moe = fg::presets::mixtral_8x7b.moe;
#endif
  return fg::checked(a);
}
constexpr fg::architecture model = changed();
static_assert(model.layers > 0);
