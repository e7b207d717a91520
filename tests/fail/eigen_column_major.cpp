// expect: finegrain reads row-major matrices: give the Eigen type the option
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

#ifdef FIXED
fg::matrix<double> view(row_major& x) { return x; }
#else
fg::matrix<double> view(Eigen::MatrixXd& x) { return x; }
#endif
