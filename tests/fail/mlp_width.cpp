// expect: mlp: both widths must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::mlp<8, 1>{};
#else
constexpr auto model = fg::mlp<8, 0>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
