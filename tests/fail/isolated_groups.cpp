// expect: isolated(k) is for experts in one group
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

constexpr auto layer = fg::config{.hidden = 2048,
                                  .width = 1408,
                                  .routed = 64,
                                  .top_k = 6,
                                  .shared = 2,
                                  .groups = 8,
                                  .group_limit = 4};
#ifdef FIXED
constexpr auto other = layer.segmented(2);
#else
constexpr auto other = layer.isolated(1);
#endif
static_assert(fg::valid<other>);
