// expect: this executor has no plan for this expression
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/plan.hpp>

namespace fg = finegrain;

struct executor {};
template <int D>
struct my_stage : fg::stage<D> {};

#ifdef FIXED
template <int D>
struct finegrain::plan<executor, my_stage<D>> {};
#endif
static_assert(sizeof(fg::plan<executor, my_stage<8>>) > 0);
