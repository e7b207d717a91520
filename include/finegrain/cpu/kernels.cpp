// The cpu's kernels, for a program whose other files have FINEGRAIN_KERNELS_APART: see kernels.hpp.
// SPDX-License-Identifier: Apache-2.0

// A program's own warnings, less what finegrain.hpp leaves out.
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"

#define FINEGRAIN_KERNELS_HERE
#include "kernels.hpp"
