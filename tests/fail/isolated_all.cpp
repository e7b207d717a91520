// expect: isolated(k) needs 0 <= k < top_k
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

constexpr auto layer =
    fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
#ifdef FIXED
constexpr auto other = layer.isolated(5);
#else
constexpr auto other = layer.isolated(6);
#endif
static_assert(fg::valid<other>);
