// expect: activations: this network's passes keep none: make it one of watched<E, X>
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/activations.hpp>
#include <finegrain/model/network.hpp>

namespace fg = finegrain;

using stage = fg::linear<8, 8>;
#ifdef FIXED
using model = fg::watched<stage, fg::cpu>;
#else
using model = stage;
#endif

void run(fg::network<model, fg::cpu>& net, fg::matrix<float> x) {
  fg::activations seen{net};
  net.infer({.tokens = x.rows, .seen = &seen}, x, x);
}
