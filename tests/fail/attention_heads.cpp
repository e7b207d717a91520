// expect: attention: the query heads must divide evenly among the key and value heads
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<96, 6, 3>{};
#else
constexpr auto model = fg::attention<96, 6, 4>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
