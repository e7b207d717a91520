// expect: top_k must lie between 1 and routed
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 4}>{};
#else
constexpr auto model = fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 5}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
