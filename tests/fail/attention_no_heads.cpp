// expect: attention: there must be at least one head
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<8, 1>{};
#else
constexpr auto model = fg::attention<8, 0>{};
#endif
static_assert(fg::out_width<decltype(model)>() >= fg::ids);
