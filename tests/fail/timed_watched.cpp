// expect: watched<E, X>, timed<E, X>: a part of E is watched or timed already: put one of the two around
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/timed.hpp>
#include <finegrain/plan/watched.hpp>

namespace fg = finegrain;

using stages = decltype(fg::linear<4, 64>{} | fg::linear<64, 4>{});
#ifdef FIXED
using model = fg::timed<stages, fg::cpu>;
#else
using model = fg::timed<fg::watched<stages, fg::cpu>, fg::cpu>;
#endif
static_assert(fg::in_width<model>() == 4);
