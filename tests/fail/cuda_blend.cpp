// expect: blend: cuda has no plan for it yet
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>

namespace fg = finegrain;

using a = fg::mlp<64, 64>;
#ifdef FIXED
using both = decltype(a{} + a{});
#else
using both = decltype(fg::blend(a{}, a{}));
#endif
static_assert(fg::scratch_bytes<fg::cuda, both>({.tokens = 8}) > 0);
