// expect: mixture<C, Router>: the router can hold no mixture: a layer writes one report
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 8, .width = 8, .routed = 4, .top_k = 2, .shared = 1};
#ifdef FIXED
using below = fg::shared_experts<moe>;
#else
using below = fg::mixture<moe>;
#endif
using router = decltype(fg::repeat<2>(fg::residual(below{})) | fg::linear<8, 4>{});
static_assert(fg::parameters(fg::mixture<moe, router>{}) > 0);
