// expect: mixture<C, Router>: the router must produce a logit for each routed expert
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int logits = 4;
#else
constexpr int logits = 5;
#endif
using model = fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2},
                          fg::linear<8, logits>>;
static_assert(fg::parameters(model{}) > 0);
