// expect: this network begins with an embedding: it reads token ids, not numbers
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>
#include <vector>

namespace fg = finegrain;

void run(fg::network<fg::embedding<100, 8>, fg::cpu>& net, std::vector<std::int32_t> const& ids,
         fg::matrix<float const> x, fg::matrix<float> y) {
#ifdef FIXED
  net(ids, y);
#else
  net(x, y);
#endif
}
