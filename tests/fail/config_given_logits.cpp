// expect: given_logits is for the library: a router of your own is mixture<C, Router>
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr bool given = false;
#else
constexpr bool given = true;
#endif
static_assert(
    fg::valid<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2, .given_logits = given}>);
