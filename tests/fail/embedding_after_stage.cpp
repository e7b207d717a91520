// expect: left | right: the left stage must produce the width the right stage expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::embedding<100, 8>{} | fg::linear<8, 8>{};
#else
constexpr auto model = fg::linear<8, 8>{} | fg::embedding<100, 8>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
