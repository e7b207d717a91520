// expect: on cuda, attention turns neighbours of whole heads: rotary must be 0
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr fg::attention_form form{.adjacent = true};
#else
constexpr fg::attention_form form{.rotary = 8, .adjacent = true};
#endif
using model = fg::attention<64, 4, 4, 16, form>;
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
