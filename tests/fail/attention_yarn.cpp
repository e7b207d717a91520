// expect: yarn: factor must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.yarn = {.factor = 4}}>{};
#else
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.yarn = {.factor = 0.25f}}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
