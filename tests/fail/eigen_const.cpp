// expect: a const Eigen matrix
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

#ifdef FIXED
fg::matrix<double const> view(row_major const& x) { return x; }
#else
fg::matrix<double> view(row_major const& x) { return x; }
#endif
