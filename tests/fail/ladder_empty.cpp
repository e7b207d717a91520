// expect: ladder: there must be at least one config
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/ladder.hpp>

namespace fg = finegrain;

constexpr fg::config base = fg::conventional<16, 2>({.hidden = 512, .width = 1024});
#ifdef FIXED
using ladder = fg::ladder<base>;
#else
using ladder = fg::ladder<>;
#endif
static_assert(ladder::size == 1);
