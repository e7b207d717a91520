// Figure 5: how many experts must be active? Of a trained model, and of models trained so.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

constexpr fg::config with(int top_k) {
  fg::config c = deepseek;
  c.top_k = top_k;
  return fg::checked(c);
}
using rungs = fg::ladder<with(1), with(3), with(5), with(7)>;

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "activated",
       .title = "Figure 5: fewer activated experts",
       .paper =
           "In the paper the trained 1+7/63 with 4 routed experts in place of 7 (Pile loss "
           "1.868) is as good as GShard (1.867); K = 3 to 7: 1.956, 1.868, 1.831, 1.814, 1.808.",
       .orderings = {{"1+3/63", "1+1/63"}, {"1+5/63", "1+3/63"}, {"1+7/63", "1+5/63"}}},
      [](fg::study& s) {
        s.add<moe<base>>("0+2/16");
        fg::for_each(rungs{}, [&]<fg::config C>(fg::at<C>) { s.add<moe<C>>(fg::rung_name(C)); });
      },
      [](fg::study& s, fg::page& page, std::vector<fg::claim>& claims) {
        fg::picture::curve_plot plot{"Bits per byte by activated routed experts",
                                     "routed experts that a token is sent to",
                                     "bits per byte",
                                     {}};
        auto const gshard = fg::means(s.ask("0+2/16"));
        fg::picture::curve fixed{"1+7/63, asked", {}}, scratch{"trained so", {}};
        fg::table t({"routed experts", "asked of 1+7/63", "less GShard"});
        for (int k = 1; k <= 8; ++k) {
          auto const at_k = fg::means(s.ask("1+7/63", {.top_k = k}));
          fixed.add(k, fg::estimate_mean(at_k));
          t.add({std::to_string(k), fg::text::fixed(fg::estimate_mean(at_k).mean, 3),
                 fg::signed_text(fg::estimate_difference(at_k, gshard))});
          if (k == 4) claims.emplace_back("1+7/63 asked for 4 < GShard", at_k, gshard);
        }
        for (int k : {1, 3, 5, 7})
          scratch.add(k, fg::estimate_mean(fg::means(s.ask("1+" + std::to_string(k) + "/63"))));
        plot.curves = {fixed, scratch};
        plot.whole = true;
        plot.levels = {{"GShard", fg::estimate_mean(gshard).mean}};
        page.heading("At fixed weights, and trained so");
        page.picture(fg::picture::draw(plot), "activated", "K asked of 1+7/63, and K trained.");
        page.add(t, "activated");
      });
}
