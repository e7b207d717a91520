// expect: on cuda, latent attention does not run: reference and cpu have it
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
using model = fg::attention<64, 4>;
#else
using model =
    fg::latent_attention<64, 4, fg::latent{.kv_rank = 32, .nope = 16, .rope = 8, .value = 16}>;
#endif
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
