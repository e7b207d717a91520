// expect: a config.json is written of a whole model, decoder<architecture>
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/io/published_families.hpp>

namespace fg = finegrain;

constexpr fg::architecture published = fg::presets::mixtral_8x7b;

std::string text() {
#ifdef FIXED
  return fg::published_config<fg::decoder<published>>(fg::families::mixtral);
#else
  return fg::published_config<fg::mixture<published.moe>>(fg::families::mixtral);
#endif
}
