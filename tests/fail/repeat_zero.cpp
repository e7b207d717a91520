// expect: repeat<n>(a): n must be at least 1
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::repeat<1>(fg::linear<8, 8>{});
#else
constexpr auto model = fg::repeat<0>(fg::linear<8, 8>{});
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
