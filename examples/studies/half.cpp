// Figure 6: half of the routed experts' activations, trained from scratch.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

constexpr fg::config half = [] {
  fg::config c = deepseek;
  c.top_k = 3;
  return fg::checked(c);
}();

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "half",
       .title = "Figure 6: half the activated experts, trained from scratch, against GShard",
       .paper =
           "In the paper 1+3/63, with half of GShard's active expert parameters, is still better "
           "than GShard (0+2/16) on all six benchmarks.",
       .orderings = {{"1+3/63", "0+2/16"}, {"1+7/63", "1+3/63"}}},
      [](fg::study& s) {
        s.add<moe<base>>("0+2/16");
        s.add<moe<half>>("1+3/63");
        s.add<moe<deepseek>>("1+7/63");
        s.add<dense<1>>("dense ×1");
      });
}
