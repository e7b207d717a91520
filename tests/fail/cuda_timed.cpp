// expect: stages are timed on executors that are done when a call returns
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/plan/timed.hpp>

namespace fg = finegrain;

#ifdef FIXED
using model = fg::mlp<64, 64>;
#else
using model = fg::timed<fg::mlp<64, 64>, fg::cuda>;
#endif
static_assert(fg::scratch_bytes<fg::cuda, model>({.tokens = 8}) > 0);
