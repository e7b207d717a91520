// expect: rmsnorm: the width must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::rmsnorm<1>{};
#else
constexpr auto model = fg::rmsnorm<0>{};
#endif
static_assert(fg::out_width<decltype(model)>() >= fg::ids);
