// expect: how many rows have these numbers?
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/matrix.hpp>
#include <vector>

namespace fg = finegrain;

void layer(fg::matrix<float const>);

#ifdef FIXED
void run(std::vector<float> const& x) { layer({x.data(), 2, 4}); }
#else
void run(std::vector<float> const& x) { layer(x); }
#endif
