// expect: attention: the width must divide evenly among the query heads, or HeadDim be given
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<64, 5, 5, 12>{};
#else
constexpr auto model = fg::attention<64, 5>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
