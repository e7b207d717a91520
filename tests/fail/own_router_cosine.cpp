// expect: say how a config's router makes logits; one of your own takes its place
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int cosine = 0;
#else
constexpr int cosine = 4;
#endif
using model =
    fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 4, .top_k = 2, .cosine = cosine},
                fg::linear<8, 4>>;
static_assert(fg::parameters(model{}) > 0);
