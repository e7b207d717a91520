// expect: selection::hash needs vocabulary, the number of token ids
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int vocabulary = 32000;
#else
constexpr int vocabulary = 0;
#endif
static_assert(fg::valid<fg::config{.hidden = 64,
                                   .width = 32,
                                   .routed = 8,
                                   .top_k = 2,
                                   .selection = fg::selection::hash,
                                   .vocabulary = vocabulary}>);
