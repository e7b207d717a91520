// Balance rules of one's own: a loss that punishes overloaded experts alone, and a controller that
// moves the selection biases in proportion to what experts lack.
#include <algorithm>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <span>
#include <vector>

namespace fg = finegrain;

constexpr fg::config moe{
    .hidden = 32, .width = 16, .routed = 16, .top_k = 2, .shared = 1, .bias = true};
using network = fg::network<fg::mixture<moe>, fg::cpu>;

// [example]
// A loss: what each expert's mean score P is multiplied with, from its load over the mean load.
struct only_overload : fg::balance_rule {
  void factors(std::span<double const> f, std::span<double> factors) const override {
    for (std::size_t e = 0; e < f.size(); ++e) factors[e] = f[e] > 1 ? 0.05 * (f[e] - 1) : 0;
  }
};

// A controller: after each step, from the counts in the trainer's log.
void move_biases(fg::trainer<network>& train) {
  fg::routing_report const& did = train.log().layers[0];
  auto const bias = train.network().weight("bias");
  double const mean = double(did.tokens * moe.top_k) / moe.routed;
  for (int e = 0; e < moe.routed; ++e)
    bias(0, e) += float(0.02 * (1 - double(did.load[std::size_t(e)]) / mean));
}
// [/example]

/// The busiest expert's load over the mean's, after training.
double busiest(fg::balance_rule const* loss, bool controlled) {
  constexpr std::int64_t T = 512;
  std::vector<float> x(T * moe.hidden);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = float(fg::random_normal(1, i) + (i % moe.hidden < 4 ? 1 : 0));  // skews the router
  fg::matrix<float const> const in(x.data(), T, moe.hidden);
  network net({.deviation = 0.3});
  fg::trainer train{net, {.lr = 3e-3}, {.routing = {.balance = {.rule = loss}}}};
  for (int step = 0; step < 200; ++step) {
    train.step(in, in);
    if (controlled) move_biases(train);
  }
  auto const& load = train.log().layers[0].load;
  return double(*std::max_element(load.begin(), load.end())) * moe.routed / (T * moe.top_k);
}

int main() {
  only_overload const loss;
  double const none = busiest(nullptr, false), by_loss = busiest(&loss, false),
               by_bias = busiest(nullptr, true);
  std::printf(
      "the busiest expert has %.2f times the mean; with the loss %.2f, the controller %.2f\n", none,
      by_loss, by_bias);
  return by_loss < none && by_bias < none ? 0 : 1;
}
