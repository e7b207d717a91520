// Upcycling: a dense decoder learns from a text; its feed-forward blocks become the experts of
// mixtures, which learn on, by a schedule of one's own. At the end, who was sent where.
//
//   example_11_upcycling [--text FILE] [--steps N]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "byte_model.hpp"
#include "upcycling.hpp"

namespace fg = finegrain;

// Weights of a token's experts sum to 1: experts that are all the dense block give what it gave.
constexpr fg::config moe{.hidden = 64, .width = 128, .routed = 8, .top_k = 2, .renormalise = true};

template <fg::Expr FeedForward>
struct reader : fg::named {
  static constexpr int D = moe.hidden;
  static constexpr auto block = fg::residual(fg::rmsnorm<D>{} | fg::attention<D, 4>{}) |
                                fg::residual(fg::rmsnorm<D>{} | FeedForward{});
  static constexpr auto expr =
      fg::embedding<256, D>{} | fg::repeat<2>(block) | fg::rmsnorm<D>{} | fg::head<D, 256>{};
};
using dense = fg::network<reader<fg::mlp<moe.hidden, moe.width>>, fg::cpu>;
using sparse = fg::network<reader<fg::mixture<moe>>, fg::cpu>;

// [example]
/// Warm-up, a plateau, and a straight fall to 0 over the last fifth, where nothing balances.
struct plateau : fg::training_rule {
  std::int64_t steps;
  explicit plateau(std::int64_t all) : steps(all) {}
  void set(std::int64_t done, fg::adamw& optimizer, fg::training& how) const override {
    double const left = double(steps - done) / double(steps);
    optimizer.lr = 4e-3 * std::min({1.0, double(done + 1) / 10, left / 0.2});
    how.routing.balance.expert = left > 0.2 ? 0.01 : 0;
  }
  std::string settings() const override { return "plateau of " + std::to_string(steps); }
};
// [/example]

int main(int count, char** words) try {
  fg::options given(count, words);
  auto const text = some_text(given.text("--text", ""));
  auto const steps = given.number("--steps", 60);
  given.done();

  plateau const schedule(steps);
  dense small({.deviation = 0.1, .seed = 1});
  sparse large({.deviation = 0.1, .seed = 2});
  fg::trainer first{small, {}, {.rule = &schedule}};
  fg::trainer second{large, {}, {.rule = &schedule}};
  fg::windows batch, held_out;
  text.validate(0, 8, 8, 64, held_out);
  auto const bits = [&](auto& train) {
    return train.evaluate(held_out.batch(), held_out.y) / std::log(2);
  };
  auto const learn = [&](auto& train, std::uint64_t seed) {
    while (train.steps() < steps) {
      text.draw(seed, train.steps(), 8, 64, batch);
      train.step(batch.batch(), batch.y);
    }
    return bits(train);
  };
  double const before = learn(first, 0);
  upcycle<moe.routed>(small, large);
  double const same = bits(second), after = learn(second, 1);
  std::printf("dense %.3f bits per byte; upcycled %.3f, and after %lld steps more %.3f\n", before,
              same, static_cast<long long>(steps), after);

  std::int64_t const T = std::ssize(held_out.x);
  auto log = sparse::make_log(T);  // with room for each token's experts
  std::vector<float> logits(std::size_t(T) * 256);
  fg::batch asked = held_out.batch();
  asked.log = &log;
  large.infer(asked, {}, fg::matrix<float>(logits.data(), T, 256));
  for (std::size_t l = 0; l < log.layers.size(); ++l) {
    fg::routing_report const& layer = log.layers[l];
    std::printf("layer %zu:", l);
    for (std::int64_t t = 0; t < 12; ++t)
      std::printf(" %c:%d,%d", std::max(held_out.x[std::size_t(t)], 32), layer.choices()(t, 0),
                  layer.choices()(t, 1));
    std::printf(
        "; the busiest expert has %.2f times the mean\n",
        fg::balance_of(std::vector<double>(layer.load.begin(), layer.load.end())).max_over_mean);
  }
  return std::fabs(same - before) < 1e-4 && after < before ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
