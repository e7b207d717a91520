// expect: watched<E, X>, timed<E, X>: a part of E is watched or timed already: put one of the two around
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/watched.hpp>

namespace fg = finegrain;

using part = decltype(fg::linear<4, 64>{} | fg::linear<64, 4>{});
#ifdef FIXED
struct block : fg::named {
  static constexpr auto expr = part{};
};
#else
struct block : fg::named {
  static constexpr auto expr = fg::watched<part, fg::cpu>{};
};
#endif
using model = fg::watched<decltype(fg::repeat<2>(fg::residual(block{}))), fg::cpu>;
static_assert(fg::in_width<model>() == 4);
