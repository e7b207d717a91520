// expect: tied(embedding, a): a must expect the width that the embedding produces
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/tied.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr int width = 8;
#else
constexpr int width = 16;
#endif
constexpr auto model = fg::tied(fg::embedding<100, width>{}, fg::linear<8, 8>{});
static_assert(fg::out_width<decltype(model)>() == 100);
