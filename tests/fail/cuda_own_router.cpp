// expect: on cuda, a layer's router is its config's: mixture<C, Router> runs on cpu and reference
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

#ifdef FIXED
using router = void;
#else
using router = fg::linear<64, 4>;
#endif
using model = fg::mixture<fg::config{.hidden = 64, .width = 8, .routed = 4, .top_k = 2}, router>;
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
