// expect: attention_form: theta must be more than 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.theta = 1e6}>{};
#else
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.theta = 0}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
