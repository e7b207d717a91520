// expect: segmented(m) needs m of at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

constexpr auto layer =
    fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
#ifdef FIXED
constexpr auto other = layer.segmented(1);
#else
constexpr auto other = layer.segmented(0);
#endif
static_assert(fg::valid<other>);
