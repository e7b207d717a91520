// A user's program: a layer on the cpu executor.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include <cmath>
#include <vector>

namespace fg = finegrain;

int main() {
  constexpr fg::config moe{.hidden = 16, .width = 8, .routed = 4, .top_k = 2, .shared = 1};
  fg::network<fg::mixture<moe>, fg::cpu> layer;
  std::vector<float> x(5 * 16, 1.0F), y(5 * 16, NAN);
  layer(fg::matrix<float>(x.data(), 5, 16), fg::matrix<float>(y.data(), 5, 16));
  for (float const value : y)
    if (!std::isfinite(value)) return 1;
  return fg::parameters(fg::mixture<moe>{}) == 16 * 4 + 5 * 3 * 16 * 8 ? 0 : 1;
}
