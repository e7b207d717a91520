// Laws of config/presets.hpp. Totals of every preset are in static/paper_parameters.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/budget.hpp>
#include <finegrain/config/presets.hpp>

#include "../catch.hpp"
#include "../static/paper.hpp"

namespace fg = finegrain;
namespace presets = fg::presets;

TEST_CASE("DeepSeekMoE 16B is the layer that its paper and checkpoint say") {
  CHECK(presets::deepseek_moe_16b.moe ==
        fg::config{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2});
  CHECK(presets::deepseek_v2_lite.moe == presets::deepseek_moe_16b.moe);
}

TEST_CASE("the 2B, 16B and 145B models are a conventional mixture, segmented and isolated") {
  auto const made = [](fg::config c, int experts, int chosen, int m, int shared) {
    c.width *= m;
    c.routed = experts;
    c.top_k = chosen;
    c.shared = 0;
    return c.segmented(m).isolated(shared);
  };
  CHECK(made(presets::deepseek_moe_2b.moe, 16, 2, 4, 1) == presets::deepseek_moe_2b.moe);
  // The larger ones have more experts than 16 conventional ones give: 2 + 64, 4 + 128.
  CHECK(presets::deepseek_moe_16b.moe.active() == 2 * 4);
  CHECK(presets::deepseek_moe_145b.moe.active() == 2 * 8);
}

TEST_CASE("widths of the released DeepSeekMoE models are a standard block's, rounded up to 64") {
  CHECK(presets::deepseek_moe_16b.moe.width == paper::width_rounded_up(2048, 4));
  CHECK(presets::deepseek_moe_145b.moe.width == paper::width_rounded_up(4096, 8));
}

TEST_CASE("Qwen1.5-MoE's shared expert is as wide as four routed ones") {
  constexpr fg::config c = presets::qwen1_5_moe_a2_7b.moe;
  CHECK(c.shared * c.width == 5632);
  CHECK(c.shared_gate);
}

TEST_CASE("V3 chooses by biased sigmoid scores, 8 experts from 4 of 8 groups") {
  constexpr fg::config c = presets::deepseek_v3.moe;
  CHECK(c.score == fg::score::sigmoid);
  CHECK(c.bias);
  CHECK(c.renormalise);
  CHECK(c.scale == 2.5f);
  CHECK(c.group_score == fg::group_score::top2_sum);
  CHECK(c.routed / c.groups * c.group_limit == 128);
}
