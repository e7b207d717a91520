// expect: attention_form: scale must lie between 1e-6 and 1e6, or be 0 for the usual one
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.scale = 0.125}>{};
#else
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.scale = 1e-50}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
