// expect: head: width and tokens must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::head<8, 1>{};
#else
constexpr auto model = fg::head<0, 1>{};
#endif
static_assert(fg::out_width<decltype(model)>() >= fg::ids);
