// Balancing experts by a loss, by biases, by both, or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "small.hpp"

constexpr fg::config biased = [] {
  fg::config c = deepseek;
  c.bias = true;
  return fg::checked(c);
}();

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "balance",
       .title = "Balance by a loss or by biases",
       .paper =
           "The paper balances by a loss (alpha 0.01 at this size). DeepSeek-V3 moves selection "
           "biases by the sign of each expert's excess instead, and claims less loss at equal "
           "balance, since no gradient works against the model's own. The biases move at "
           "V3's speed of 0.001.",
       .orderings = {{"biases", "loss 0.01"},
                     {"biases", "none"},
                     {"loss 0.01", "none"},
                     {"loss 0.01 a sequence", "loss 0.01"},
                     {"biases and a small loss", "loss 0.01"}}},
      [](fg::study& s) {
        fg::training const loss = s.settings().training;
        fg::training none = loss;
        none.routing.balance = {};
        fg::training sequence = none, biases = none, quantile = none;
        sequence.routing.balance = {.expert = 0.01, .over = fg::window::sequence};
        biases.bias = {.speed = 0.001};
        quantile.bias = {.quantile = true};
        fg::training both = biases;
        both.routing.balance.sequence = 1e-4;  // as V3 has it
        s.add<moe<deepseek>>("loss 0.01", loss);
        s.add<moe<deepseek>>("none", none);
        s.add<moe<deepseek>>("loss 0.01 a sequence", sequence);
        s.add<moe<biased>>("biases", biases);
        s.add<moe<biased>>("biases and a small loss", both);
        s.add<moe<biased>>("quantiles", quantile);
      },
      [](fg::study& s, fg::page&, std::vector<fg::claim>& claims) {
        auto const all = s.results();
        auto const busiest = [&](char const* name) {
          auto const& m = all.of(name);
          return m.balance_at(m.balance.size() - 1, &fg::load_balance::max_over_mean);
        };
        for (char const* name : {"loss 0.01", "biases", "quantiles"})
          claims.emplace_back(std::string("busiest expert: ") + name + " < none", busiest(name),
                              busiest("none"));
        claims.emplace_back("busiest expert: biases < loss 0.01", busiest("biases"),
                            busiest("loss 0.01"));
      });
}
