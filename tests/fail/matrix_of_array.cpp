// expect: how many rows have these numbers?
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;

float y[8];

#ifdef FIXED
fg::matrix<float> view(y, 2, 4);
#else
fg::matrix<float> view(y);
#endif
