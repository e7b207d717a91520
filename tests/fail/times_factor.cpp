// expect: times: the factor must be a finite number, and not 0
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::times<64, 0.22>{};
#else
constexpr auto model = fg::times<64, 0.0>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
