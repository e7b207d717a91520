// expect: an Eigen matrix of other numbers
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

#ifdef FIXED
fg::matrix<double> view(row_major& x) { return x; }
#else
fg::matrix<float> view(row_major& x) { return x; }
#endif
