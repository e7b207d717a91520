// expect: thread_pool pool{8}; cpu on{pool};
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/executor.hpp>

namespace fg = finegrain;

#ifdef FIXED
void run() {
  fg::thread_pool pool{8};
  fg::cpu const on{pool};
}
#else
void run() { fg::cpu const on{8}; }
#endif
