// The CPU's kernels in a .cu file: a layer in f32, bf16 and codes, as nvcc's front end reads it.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;
constexpr fg::config moe =
    fg::conventional<16, 2>({.hidden = 64, .width = 128}).segmented(4).isolated(1);
template class fg::network<fg::mixture<moe>, fg::cpu>;
template class fg::frozen<fg::mixture<moe>, fg::cpu, fg::format::bf16>;
template class fg::frozen<fg::mixture<moe>, fg::cpu, fg::format::fp8>;
template class fg::frozen<fg::mixture<moe>, fg::cpu, fg::format::int4>;
