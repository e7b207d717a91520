// expect: see cuda/supported.hpp
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>

namespace fg = finegrain;

#ifdef FIXED
constexpr auto act = fg::activation::geglu;
#else
constexpr auto act = fg::activation::reglu;
#endif
static_assert(fg::scratch_bytes<fg::cuda, fg::mlp<64, 32, act>>({.tokens = 8}) > 0);
