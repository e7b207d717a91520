// expect: forward: backward reads x again, and this x is gone by then: give it a name
// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <finegrain/model/network.hpp>
#include <finegrain/reference/reference.hpp>

namespace fg = finegrain;
using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void run(fg::network<fg::linear<4, 4>, fg::reference>& layer, row_major& x, row_major& y) {
#ifdef FIXED
  x *= 2;
  layer.forward({.tokens = x.rows()}, x, y);
  layer.forward({.tokens = 1}, x.topRows(1), y.topRows(1));
  layer((x * 2).eval(), y);
#else
  layer.forward({.tokens = x.rows()}, (x * 2).eval(), y);
#endif
}
