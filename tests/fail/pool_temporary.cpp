// expect: deleted
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/executor.hpp>

namespace fg = finegrain;

#ifdef FIXED
void run() {
  fg::thread_pool pool(2);
  fg::cpu const on{pool};
}
#else
void run() { fg::cpu const on{fg::thread_pool(2)}; }
#endif
