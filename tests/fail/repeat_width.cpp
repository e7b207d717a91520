// expect: repeat<n>(a): a must produce the width it expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::repeat<3>(fg::linear<8, 8>{});
#else
constexpr auto model = fg::repeat<3>(fg::linear<8, 16>{});
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
