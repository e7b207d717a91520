// expect: mixture<C, Router>: the router must expect the layer's hidden numbers
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int hidden = 8;
#else
constexpr int hidden = 16;
#endif
using model = fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2},
                          fg::linear<hidden, 4>>;
static_assert(fg::parameters(model{}) > 0);
