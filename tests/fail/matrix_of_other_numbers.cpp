// expect: other numbers would be copied
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;

void layer(fg::matrix<float const>, fg::matrix<float>);

#ifdef FIXED
void run(fg::matrix<float> x, fg::matrix<float> y) { layer(x, y); }
#else
void run(fg::matrix<double> x, fg::matrix<double> y) { layer(x, y); }
#endif
