// expect: what is written to a temporary Eigen matrix would be lost
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void layer(fg::matrix<float const>, fg::matrix<float>);

#ifdef FIXED
void run(row_major& y) { layer(row_major(2, 4), y.middleRows(0, 2)); }
#else
void run(row_major& y) { layer(y, row_major(2, 4)); }
#endif
