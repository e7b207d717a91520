// The cpu's kernels of frozen networks, of those formats whose kernels a program has apart: see
// frozen_kernels.hpp.
// SPDX-License-Identifier: Apache-2.0

#include "../finegrain.hpp"  // first, as in kernels.cpp

#if !defined(FINEGRAIN_KERNELS_APART_F32) && !defined(FINEGRAIN_KERNELS_APART_BF16) && \
    !defined(FINEGRAIN_KERNELS_APART_FP8) && !defined(FINEGRAIN_KERNELS_APART_INT8) && \
    !defined(FINEGRAIN_KERNELS_APART_INT8_BLOCK) && !defined(FINEGRAIN_KERNELS_APART_INT4)
#error frozen_kernels.cpp holds the kernels of no format: compile all files with, say, \
    -DFINEGRAIN_KERNELS_APART_INT4
#endif

// A program's own warnings, less what finegrain.hpp leaves out.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"

#define FINEGRAIN_KERNELS_HERE
#include "frozen_kernels.hpp"
#undef FINEGRAIN_KERNELS_HERE

#pragma GCC diagnostic pop
