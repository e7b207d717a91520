// expect: embedding: rows and width must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::embedding<1, 8>{};
#else
constexpr auto model = fg::embedding<0, 8>{};
#endif
static_assert(fg::out_width<decltype(model)>() >= fg::ids);
