// expect: left | right: the left stage must produce the width the right stage expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

template <int D>
struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<D>{});
};
#ifdef FIXED
constexpr auto model = fg::linear<8, 16>{} | block<16>{};
#else
constexpr auto model = fg::linear<8, 16>{} | block<8>{};
#endif
static_assert(fg::in_width<decltype(model)>() == 8);
