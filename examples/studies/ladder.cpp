// Figure 3: the ladder from GShard's experts to DeepSeekMoE's, at one budget.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

using rungs = fg::ladder<base, base.isolated(1), base.segmented(2).isolated(1), deepseek>;
static_assert(fg::same_budget(rungs{}), "as many expert parameters, total and active");

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "ladder",
       .title = "Figure 3: isolating a shared expert, and cutting experts finer",
       .paper =
           "In the paper every rung is better than the one before: 0+2/16 (GShard), then one of "
           "the experts that a token has is shared (1+1/15), then experts are cut in 2 (1+3/31) "
           "and in 4 (1+7/63), at equal total and active parameters.",
       .orderings = {{"1+1/15", "0+2/16"},
                     {"1+3/31", "1+1/15"},
                     {"1+7/63", "1+3/31"},
                     {"1+7/63", "0+2/16"},
                     {"0+2/16", "dense ×2"}}},
      [](fg::study& s) {
        fg::for_each(rungs{}, [&]<fg::config C>(fg::at<C>) { s.add<moe<C>>(fg::rung_name(C)); });
        s.add<dense<2>>("dense ×2");
      });
}
