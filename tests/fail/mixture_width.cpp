// expect: left | right: the left stage must produce the width the right stage expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model =
    fg::rmsnorm<8>{} | fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2}>{};
#else
constexpr auto model =
    fg::rmsnorm<16>{} | fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2}>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
