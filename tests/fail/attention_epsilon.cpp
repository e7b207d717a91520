// expect: epsilon is of the norms of queries and keys, and there are none
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model =
    fg::attention<64, 4, 4, 16, fg::attention_form{.norm = fg::head_norm::all, .epsilon = 1e-5}>{};
#else
constexpr auto model = fg::attention<64, 4, 4, 16, fg::attention_form{.epsilon = 1e-5}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
