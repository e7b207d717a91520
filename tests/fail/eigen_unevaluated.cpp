// expect: this Eigen expression has no numbers in memory yet: give it a name and a type
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void layer(fg::matrix<float const>);

#ifdef FIXED
void run(row_major const& x) { layer((x * 2).eval()); }
#else
void run(row_major const& x) { layer(x * 2); }
#endif
