// Section 4.5: what trained experts are worth. The best are excluded, or the shared one.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

constexpr fg::config wider = [] {
  fg::config c = base;
  c.width = base.width * 3 / 2;
  return fg::checked(c);
}();

void exclude_best(fg::study& s, fg::page& page, std::vector<fg::claim>& claims) {
  fg::picture::curve_plot plot{"Each token's best experts excluded (figure 4)",
                               "sixteenths of the routed experts excluded",
                               "bits per byte",
                               {}};
  fg::table t({"excluded", "1+7/63", "rise", "GShard ×1.5", "rise"});
  fg::number_table at_0, rise;
  fg::picture::curve curves[] = {{"1+7/63", {}}, {"GShard ×1.5", {}}};
  for (int sixteenths = 0; sixteenths <= 4; ++sixteenths) {
    std::vector<std::string> row{std::to_string(sixteenths) + "/16"};
    for (int m = 0; m < 2; ++m) {
      int const experts = m == 0 ? deepseek.routed : wider.routed;
      auto const bits =
          fg::means(s.ask(curves[m].name, {.mask_best = (experts * sixteenths + 8) / 16}));
      if (sixteenths == 0) at_0.push_back(bits);
      curves[m].add(sixteenths, fg::estimate_mean(bits));
      row.push_back(fg::text::fixed(fg::estimate_mean(bits).mean, 3));
      row.push_back(fg::signed_text(fg::estimate_difference(bits, at_0[std::size_t(m)])));
      if (sixteenths == 1) {
        rise.push_back(bits);
        for (std::size_t i = 0; i < bits.size(); ++i) rise.back()[i] -= at_0[std::size_t(m)][i];
      }
    }
    t.add(row);
  }
  claims.emplace_back("rise without the best 1/16: GShard ×1.5 < 1+7/63", rise[1], rise[0]);
  plot.curves = {curves[0], curves[1]};
  plot.whole = true;
  page.heading("Without each token's best experts");
  page.picture(fg::picture::draw(plot), "excluded",
               "The routed experts of highest score are excluded, and the next best chosen.");
  page.add(t, "excluded");
}

void exclude_shared(fg::study& s, fg::page& page, std::vector<fg::claim>& claims) {
  auto const whole = fg::means(s.ask("1+7/63"));
  fg::table t({"1+7/63", "bits/byte", "difference"});
  auto const ask = [&](char const* name, fg::routing_request const& how) {
    auto const bits = fg::means(s.ask("1+7/63", how));
    t.add({name, fg::text::fixed(fg::estimate_mean(bits).mean, 3),
           fg::signed_text(fg::estimate_difference(bits, whole))});
    return bits;
  };
  ask("whole", {});
  auto const less = ask("one routed expert less", {.top_k = 6});
  ask("without the shared expert", {.shared = false});
  auto const swapped = ask("without it, and one more routed", {.top_k = 8, .shared = false});
  claims.emplace_back("whole < without the shared expert and one more routed", whole, swapped);
  claims.emplace_back("one routed less < the shared one for one more routed", less, swapped);
  page.heading("Without the shared expert");
  page.add(t, "shared");
}

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "specialisation",
       .title = "Section 4.5: what each expert is worth, at fixed weights",
       .paper =
           "In the paper, DeepSeekMoE suffers more than GShard ×1.5 when each token's best "
           "routed experts are excluded (1/16 of them: 1.808 to 7.468 against 1.808 to 5.586): "
           "its experts are less redundant. Exchanging the shared expert for one more routed "
           "raises the loss from 1.808 to 2.414: routed experts do not know what it does."},
      [](fg::study& s) {
        s.add<moe<deepseek>>("1+7/63");
        s.add<moe<wider>>("GShard ×1.5");
      },
      [](fg::study& s, fg::page& page, std::vector<fg::claim>& claims) {
        exclude_best(s, page, claims);
        exclude_shared(s, page, claims);
      });
}
