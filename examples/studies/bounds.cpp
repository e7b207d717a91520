// DeepSeekMoE between what is larger: GShard with wider experts, and dense models of all parameters.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

#ifdef ON_CUDA
constexpr int multiple = 8;  // of widths there
#else
constexpr int multiple = 1;
#endif
constexpr fg::config wider(double times) {
  fg::config c = base;
  c.width = static_cast<int>(times * base.width / multiple + 0.5) * multiple;
  return fg::checked(c);
}

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "bounds",
       .title = "Upper bounds: dense of 4 and 16 experts, GShard of 1.2 and 1.5 times the width",
       .paper =
           "In the paper DeepSeekMoE (Pile loss 1.808) equals GShard with experts 1.5 times as "
           "wide (1.808) and almost the dense model that runs all 16 experts on every token "
           "(1.806), which bounds it from below; GShard x1.2 has 1.824, dense x4 1.908.",
       .orderings = {{"dense ×16", "dense ×4"},
                     {"dense ×16", "1+7/63"},
                     {"1+7/63", "dense ×4"},
                     {"1+7/63", "GShard ×1.2"},
                     {"1+7/63", "GShard ×1.5"},
                     {"GShard ×1.5", "GShard ×1.2"}}},
      [](fg::study& s) {
        s.add<moe<deepseek>>("1+7/63");
        s.add<moe<base>>("0+2/16");
        s.add<moe<wider(1.2)>>("GShard ×1.2");
        s.add<moe<wider(1.5)>>("GShard ×1.5");
        s.add<dense<4>>("dense ×4");
        s.add<dense<16>>("dense ×16");
      });
}
