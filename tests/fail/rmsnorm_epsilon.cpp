// expect: rmsnorm: epsilon must lie between 1e-37 and 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::rmsnorm<64, 1e-5>{};
#else
constexpr auto model = fg::rmsnorm<64, 1e-60>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
