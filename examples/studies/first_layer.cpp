// Should the first layer be dense? DeepSeekMoE 16B has it so, since its router balances slowest.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

// As many active parameters as the mixture that it replaces.
using first_dense =
    network<fg::mixture<deepseek>, fg::mlp<size.hidden, deepseek.active() * deepseek.width>>;

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "first_layer",
       .title = "First layer dense, or a mixture as the others",
       .paper = "The paper makes the first layer dense in the 16B model because balance converges "
                "much slower there; it prints no loss. Of equal active parameters, the dense layer "
                "has fewer in total. The claim asked here: a mixture in every layer has less loss.",
       .orderings = {{"1+7/63 in every layer", "first layer dense"}}},
      [](fg::study& s) {
        s.add<moe<deepseek>>("1+7/63 in every layer");
        s.add<first_dense>("first layer dense");
      });
}
