// expect: attention: Form.rotary must be at most HeadDim
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<12, 3, 3, 4, fg::attention_form{.rotary = 4}>{};
#else
constexpr auto model = fg::attention<12, 3, 3, 4, fg::attention_form{.rotary = 6}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
