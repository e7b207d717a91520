// expect: study: a model is a network, not an expression: add<network<E, cpu>>(name)
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/lab/study.hpp>

namespace fg = finegrain;

struct model : fg::named {
  static constexpr auto expr = fg::embedding<256, 8>{} | fg::head<8, 256>{};
};

void run(fg::study& study) {
#ifdef FIXED
  study.add<fg::network<model, fg::cpu>>("a model");
#else
  study.add<model>("a model");
#endif
}
