// The cpu's kernels, for a program whose other files have FINEGRAIN_KERNELS_APART: see kernels.hpp.
// SPDX-License-Identifier: Apache-2.0
#define FINEGRAIN_KERNELS_HERE
#include "kernels.hpp"
