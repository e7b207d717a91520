// expect: tied(embedding, a): it takes the embedding and what stands between it and the head
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/tied.hpp>

namespace fg = finegrain;

#ifdef FIXED
using model = decltype(fg::tied(fg::embedding<100, 8>{}, fg::rmsnorm<8>{}));
#else
using model = decltype(fg::tied(fg::embedding<100, 8>{}, fg::rmsnorm<8>{}, fg::head<8, 100>{}));
#endif
constexpr model network = {};
