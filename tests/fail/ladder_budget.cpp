// expect: every rung must cost the same
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/ladder.hpp>

namespace fg = finegrain;

constexpr fg::config base = fg::conventional<16, 2>({.hidden = 512, .width = 1024});
#ifdef FIXED
using ladder = fg::ladder<base, base.segmented(4), base.segmented(4).isolated(1)>;
#else
using ladder = fg::ladder<base, base.segmented(4), fg::conventional<16, 3>(base)>;
#endif
static_assert(fg::same_budget(ladder{}), "every rung must cost the same");
