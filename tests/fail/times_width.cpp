// expect: left | right: the left stage must produce the width the right stage expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::linear<64, 32>{} | fg::times<32, 0.22>{};
#else
constexpr auto model = fg::linear<64, 32>{} | fg::times<64, 0.22>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
