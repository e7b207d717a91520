// expect: finegrain calls std::min and std::max
// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#ifndef FIXED
#define min(a, b) ((a) < (b) ? (a) : (b))
#endif
#include <finegrain/base/platform.hpp>
