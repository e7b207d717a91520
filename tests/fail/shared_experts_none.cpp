// expect: shared_experts: the config has none
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model =
    fg::shared_experts<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2, .shared = 1}>{};
#else
constexpr auto model =
    fg::shared_experts<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
