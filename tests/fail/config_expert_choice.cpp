// expect: with expert_choice a token may have no expert, so renormalise has no meaning
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr bool renormalise = false;
#else
constexpr bool renormalise = true;
#endif
static_assert(fg::valid<fg::config{.hidden = 64,
                                   .width = 32,
                                   .routed = 8,
                                   .top_k = 2,
                                   .renormalise = renormalise,
                                   .selection = fg::selection::expert_choice}>);
