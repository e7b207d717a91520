// The cpu's kernels, for a program whose other files have FINEGRAIN_KERNELS_APART: see kernels.hpp.
// SPDX-License-Identifier: Apache-2.0

// First what other files of a unity build include too: where FINEGRAIN_KERNELS_HERE is, kernels.hpp
// stands once, after all that declares its functions.
#include "../finegrain.hpp"

// A program's own warnings, less what finegrain.hpp leaves out.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"

#define FINEGRAIN_KERNELS_HERE
#include "kernels.hpp"
#undef FINEGRAIN_KERNELS_HERE

#pragma GCC diagnostic pop
