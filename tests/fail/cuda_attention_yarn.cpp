// expect: on cuda, attention has no yarn
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr float factor = 1;
#else
constexpr float factor = 4;
#endif
using model = fg::attention<64, 4, 4, 16, fg::attention_form{.yarn = {.factor = factor}}>;
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
