// expect: group_score top2_sum needs groups of at least two experts
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 64,
                                  .group_limit = 6,
                                  .group_score = fg::group_score::max};
#else
constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 64,
                                  .group_limit = 6,
                                  .group_score = fg::group_score::top2_sum};
#endif
static_assert(fg::valid<layer>);
