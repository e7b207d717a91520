// expect: with top_k = 1, renormalise makes every weight 1 and the router learns nothing
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer = fg::config{
    .hidden = 2048, .width = 1408, .routed = 64, .top_k = 2, .shared = 2, .renormalise = true};
#else
constexpr auto layer = fg::config{
    .hidden = 2048, .width = 1408, .routed = 64, .top_k = 1, .shared = 2, .renormalise = true};
#endif
static_assert(fg::valid<layer>);
