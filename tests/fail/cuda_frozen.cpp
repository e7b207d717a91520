// expect: cuda has no frozen networks yet
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 64, .width = 32, .routed = 8, .top_k = 2};
#ifdef FIXED
using executor = fg::cpu;
#else
using executor = fg::cuda;
#endif
static_assert(fg::frozen<fg::mixture<moe>, executor, fg::format::bf16>::number == fg::format::bf16);
