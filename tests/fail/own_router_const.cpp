// expect: mixture<C, Router>: the router must be an expression's type, and not const
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>

namespace fg = finegrain;

#ifdef FIXED
using router = decltype(fg::linear<8, 6>{} | fg::linear<6, 4>{});
#else
constexpr auto two_layers = fg::linear<8, 6>{} | fg::linear<6, 4>{};
using router = decltype(two_layers);
#endif
using model = fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2}, router>;
static_assert(fg::parameters(model{}) > 0);
