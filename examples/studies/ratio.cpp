// How many of the experts should be shared: 1, 2 or 4 of 64, of the 8 that a token has.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

constexpr fg::config fine = base.segmented(4);
using rungs = fg::ladder<fine.isolated(1), fine.isolated(2), fine.isolated(4)>;
static_assert(fg::same_budget(rungs{}));

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "ratio",
       .title = "Shared to routed experts: 1:7, 2:6, 4:4 of 64",
       .paper =
           "In the paper the ratio hardly matters: Pile loss 1.808 with one shared expert, 1.806 "
           "with two, 1.811 with four; 1:3 is kept for larger models.",
       .orderings = {{"2+6/62", "1+7/63"}, {"1+7/63", "4+4/60"}, {"2+6/62", "4+4/60"}}},
      [](fg::study& s) {
        fg::for_each(rungs{}, [&]<fg::config C>(fg::at<C>) { s.add<moe<C>>(fg::rung_name(C)); });
      });
}
