// expect: left + right: both stages must produce the same width
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::linear<8, 16>{} + fg::linear<8, 16>{};
#else
constexpr auto model = fg::linear<8, 16>{} + fg::linear<8, 4>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
