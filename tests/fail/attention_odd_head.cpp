// expect: attention: rotary positions turn pairs, so HeadDim must be even
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::attention<12, 3>{};
#else
constexpr auto model = fg::attention<9, 3>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
