// A user's program: one layer of the reference executor, and the cpu one if it is there.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

int main() {
  namespace fg = finegrain;
  constexpr fg::config moe{.hidden = 8, .width = 4, .routed = 4, .top_k = 2, .shared = 1};
  static_assert(fg::parameters(fg::mixture<moe>{}) == 8 * 4 + 5 * 3 * 8 * 4);
  return fg::flops(fg::mixture<moe>{}, 1) > 0 ? 0 : 1;
}
