// expect: tied(embedding, a): the first stage must be an embedding
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/tied.hpp>

namespace fg = finegrain;

#ifdef FIXED
using model = decltype(fg::tied(fg::embedding<100, 8>{}, fg::linear<8, 8>{}));
#else
using model = decltype(fg::tied(fg::linear<100, 8>{}, fg::linear<8, 8>{}));
#endif
constexpr model network = {};
