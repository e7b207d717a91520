// expect: scale must be positive and finite
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer =
    fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2, .scale = 2.5f};
#else
constexpr auto layer =
    fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2, .scale = 0.0f};
#endif
static_assert(fg::valid<layer>);
