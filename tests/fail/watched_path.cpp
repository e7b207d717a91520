// expect: as mixture (in all layers, not layers.0.mixture)
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/watched.hpp>

namespace fg = finegrain;

using layers = decltype(fg::repeat<2>(fg::residual(fg::rmsnorm<8>{} | fg::mlp<8, 8>{})));
#ifdef FIXED
using model = fg::watched<layers, fg::cpu, "mlp">;
#else
using model = fg::watched<layers, fg::cpu, "layers.0.mlp">;
#endif
static_assert(fg::in_width<model>() == 8);
