// expect: group_limit must lie between 1 and groups
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 8,
                                  .group_limit = 8};
#else
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 8,
                                  .group_limit = 9};
#endif
static_assert(fg::valid<layer>);
