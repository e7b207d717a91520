// expect: on cuda, latent attention has nope + rope of at most 192, value 128, kv_rank 512
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int rank = 512;
#else
constexpr int rank = 1024;
#endif
using model =
    fg::latent_attention<64, 4, fg::latent{.kv_rank = rank, .nope = 16, .rope = 8, .value = 16}>;
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
