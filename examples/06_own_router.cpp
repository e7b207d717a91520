// A routing rule of one's own: top-p. A token is sent to as few experts as together have 60 % of its
// scores, and to K at most.
#include <algorithm>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <vector>

namespace fg = finegrain;

// [example]
struct top_p : fg::routing_rule {
  double p = 0.6;
  void choose(fg::batch const&, fg::matrix<double const> scores,
              fg::matrix<std::int32_t> experts) const override {
    for (std::int64_t t = 0; t < scores.rows; ++t) {
      double reached = 0;
      for (std::int64_t slot = 0; slot < experts.cols && reached < p; ++slot) {
        std::int32_t best = -1;
        for (std::int32_t e = 0; e < scores.cols; ++e) {
          auto const* const taken = experts.row(t);
          if (std::find(taken, taken + slot, e) != taken + slot) continue;
          if (best < 0 || scores(t, e) > scores(t, best)) best = e;
        }
        experts(t, slot) = best;
        reached += scores(t, best);
      }
    }
  }
};
constexpr fg::config moe{.hidden = 32,
                         .width = 16,
                         .routed = 16,
                         .top_k = 6,
                         .shared = 1,
                         .selection = fg::selection::rule};
// [/example]

int main() {
  constexpr std::int64_t T = 256;
  fg::network<fg::mixture<moe>, fg::cpu> net({.deviation = 0.3});
  std::vector<float> x(T * moe.hidden), target(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(fg::random_normal(1, i));
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = x[i] * x[(i + 1) % x.size()];
  fg::matrix<float const> const in(x.data(), T, moe.hidden), out(target.data(), T, moe.hidden);

  // Forward, backward and the losses follow from the choice: nothing else is to be written.
  top_p const rule;
  fg::trainer train{net, {.lr = 1e-2}, {.routing = {.balance = {.expert = 0.01}, .rule = &rule}}};
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    last = train.step(in, out).loss;
    if (step == 0) first = last;
  }
  double slots = 0;
  for (std::int64_t n : train.log().layers[0].load) slots += double(n);
  std::printf("loss %.3f, after 100 steps %.3f; %.2f experts a token of %d at most\n", first, last,
              slots / T, moe.top_k);
  return last < first && slots < moe.top_k * T && slots >= T ? 0 : 1;
}
