// expect: shared_gate needs shared experts
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer = fg::config{
    .hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 1, .shared_gate = true};
#else
constexpr auto layer = fg::config{
    .hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 0, .shared_gate = true};
#endif
static_assert(fg::valid<layer>);
