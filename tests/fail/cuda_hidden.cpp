// expect: see cuda/supported.hpp
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr fg::config moe{.hidden = 64, .width = 32, .routed = 8, .top_k = 2};
#else
constexpr fg::config moe{.hidden = 63, .width = 32, .routed = 8, .top_k = 2};
#endif
static_assert(fg::scratch_bytes<fg::cuda, fg::mixture<moe>>({.tokens = 8}) > 0);
