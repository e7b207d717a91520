// expect: times: the factor's magnitude must lie between 1e-6 and 1e6
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto model = fg::times<64, -0.22>{};
#else
constexpr auto model = fg::times<64, 1e39>{};
#endif
static_assert(fg::in_width<decltype(model)>() >= fg::ids);
