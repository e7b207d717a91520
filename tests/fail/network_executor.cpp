// expect: constraints not satisfied
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>

namespace fg = finegrain;

#ifdef FIXED
fg::network<fg::linear<8, 8>, fg::cpu> net;
#else
fg::network<fg::linear<8, 8>, int> net;
#endif
