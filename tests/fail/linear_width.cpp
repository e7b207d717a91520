// expect: linear: both widths must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::linear<8, 1>{};
#else
constexpr auto model = fg::linear<8, -1>{};
#endif
static_assert(fg::out_width<decltype(model)>() >= fg::ids);
