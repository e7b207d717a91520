// expect: blend(a, b): both stages must produce the same width
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int width = 8;
#else
constexpr int width = 6;
#endif
constexpr auto mix = fg::blend(fg::linear<4, 8>{}, fg::linear<4, width>{});
static_assert(fg::out_width<decltype(mix)>() == 8);
