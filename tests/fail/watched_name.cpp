// expect: watched<E, X, parts...>: no node of the expression has one of these names
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/watched.hpp>

namespace fg = finegrain;

using block = decltype(fg::residual(fg::rmsnorm<8>{} | fg::mlp<8, 8>{}));
#ifdef FIXED
using model = fg::watched<block, fg::cpu, "mlp", "residual">;
#else
using model = fg::watched<block, fg::cpu, "mlp", "mixture">;
#endif
static_assert(fg::in_width<model>() == 8);
