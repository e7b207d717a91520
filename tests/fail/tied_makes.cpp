// expect: tied(embedding, a): a must produce the embedding's width, which the head expects
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/tied.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int width = 8;
#else
constexpr int width = 16;
#endif
constexpr auto model = fg::tied(fg::embedding<100, 8>{}, fg::linear<8, width>{});
static_assert(fg::out_width<decltype(model)>() == 100);
