// expect: how many rows have these numbers?
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;

void layer(fg::matrix<float>);

#ifdef FIXED
void run(float* y) { layer({y, 2, 4}); }
#else
void run(float* y) { layer(y); }
#endif
