// expect: attention_form: scale must not be negative
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.scale = 0.125}>{};
#else
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.scale = -0.125}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
