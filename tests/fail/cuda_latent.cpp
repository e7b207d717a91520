// expect: on cuda, latent attention's q_rank, kv_rank, nope, rope and value must be multiples of 8
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int rope = 8;
#else
constexpr int rope = 12;
#endif
using model =
    fg::latent_attention<64, 4, fg::latent{.kv_rank = 32, .nope = 16, .rope = rope, .value = 16}>;
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
