// expect: finegrain computes wrong numbers under -ffast-math
// SPDX-License-Identifier: Apache-2.0
#ifndef FIXED
#define __FAST_MATH__ 1  // as -ffast-math has it
#endif
#include <finegrain/base/platform.hpp>
