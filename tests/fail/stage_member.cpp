// expect: a stage is an empty type: its numbers are template arguments or weights
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

namespace fg = finegrain;

struct softened : fg::stage<8> {
#ifdef FIXED
  static constexpr double temperature = 2;
#else
  double temperature = 2;
#endif
};
constexpr auto model = fg::linear<8, 8>{} | softened{};
static_assert(fg::in_width<decltype(model)>() == 8);
