// expect: top_k experts must fit into group_limit groups
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 16,
                                  .group_limit = 2};
#else
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 16,
                                  .group_limit = 1};
#endif
static_assert(fg::valid<layer>);
