// Table 1: Hash layers, Switch and GShard against DeepSeekMoE.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

// Hash and Switch send a token to one expert: of 16, at half of the others' cost, as in the paper;
// and of 8 that are twice as wide, at the same cost.
constexpr fg::config one_of(int experts, int width) {
  return {.hidden = size.hidden, .width = width, .routed = experts, .top_k = 1};
}
constexpr fg::config narrow = one_of(16, base.width), wide = one_of(8, 2 * base.width);
constexpr fg::config gshard = fg::profiles::gshard_top2(base);
static_assert(fg::same_budget(fg::ladder<wide, gshard, deepseek>{}));

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "baselines",
       .title = "Table 1: Hash, Switch, GShard and DeepSeekMoE",
       .paper =
           "In the paper the order of Pile losses is dense 2.060, Hash 1.932, Switch 1.881, "
           "GShard 1.867, DeepSeekMoE 1.808. There Hash and Switch have one expert of 16 and so "
           "half of GShard's active parameters; here they are run so, and at equal cost, with "
           "8 experts twice as wide. Switch has jitter, GShard its second expert by chance; "
           "neither drops tokens.",
       .orderings = {{"Hash", "dense ×1"},
                     {"Switch", "Hash"},
                     {"Switch, equal cost", "Hash, equal cost"},
                     {"GShard", "Switch"},
                     {"GShard", "Switch, equal cost"},
                     {"1+7/63", "GShard"},
                     {"1+7/63", "Hash, equal cost"}}},
      [](fg::study& s) {
        auto jitter = s.settings().training, hash = jitter;
        jitter.routing.jitter = 0.01;
        hash.routing.balance = {};  // a table of experts cannot be moved
        s.add<moe<deepseek>>("1+7/63");
        s.add<moe<gshard>>("GShard");
        s.add<moe<fg::profiles::switch_top1(wide)>>("Switch, equal cost", jitter);
        s.add<moe<fg::profiles::hash_layer(wide, 256)>>("Hash, equal cost", hash);
        s.add<moe<fg::profiles::switch_top1(narrow)>>("Switch", jitter);
        s.add<moe<fg::profiles::hash_layer(narrow, 256)>>("Hash", hash);
        s.add<dense<1>>("dense ×1");
      });
}
