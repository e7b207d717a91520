// A model of your own: a decoder whose blocks are attention and a DeepSeekMoE mixture.
#include <cstdio>
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 64, .width = 32, .routed = 16, .top_k = 4, .shared = 1};

struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<64>{} | fg::attention<64, 4>{}) |
                               fg::residual(fg::rmsnorm<64>{} | fg::mixture<moe>{});
};
struct my_model : fg::named {
  static constexpr auto expr =
      fg::embedding<256, 64>{} | fg::repeat<2>(block{}) | fg::rmsnorm<64>{} | fg::head<64, 256>{};
};

int main() {
  fg::network<my_model, fg::cpu> net({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 3e-3}};
  std::vector<std::int32_t> x(128), y(128);  // a sequence of tokens, and those that follow
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<std::int32_t>(i * i % 31);
    y[i] = static_cast<std::int32_t>((i + 1) * (i + 1) % 31);
  }
  double loss = 0;
  for (int step = 1; step <= 40; ++step) {
    loss = train.step(x, y).loss;
    if (step % 10 == 0) std::printf("step %d: loss %.3f\n", step, loss);
  }
  return loss < 1 ? 0 : 1;
}
