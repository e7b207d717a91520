// expect: this would change a view that is thrown away
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <finegrain/base/matrix.hpp>

namespace fg = finegrain;

fg::matrix<float> weight(char const* name);

#ifdef FIXED
void run(fg::matrix<float> w) { std::copy_n(w.data, w.size(), weight("router").data); }
#else
void run(fg::matrix<float> w) { weight("router") = w; }
#endif
