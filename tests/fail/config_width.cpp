// expect: width, the width of one expert, must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer =
    fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
#else
constexpr auto layer =
    fg::config{.hidden = 2048, .width = -64, .routed = 64, .top_k = 6, .shared = 2};
#endif
static_assert(fg::valid<layer>);
