// Arms that start or are trained otherwise: mixtures upcycled from a dense model of another study,
// with a controller of their selection biases, and with experts that drop tokens.
//
//   example_19_arms [--text FILE] [--out DIR] [--steps N] [--seeds N]
#include <algorithm>
#include <cstdio>

#include "byte_model.hpp"
#include "upcycling.hpp"

namespace fg = finegrain;

// Weights of a token's experts sum to 1: experts that are all the dense block give what it gave.
constexpr fg::config moe{
    .hidden = 32, .width = 64, .routed = 8, .top_k = 2, .renormalise = true, .bias = true};

template <fg::Expr FeedForward>
struct reader : fg::named {
  static constexpr auto expr =
      fg::embedding<256, moe.hidden>{} |
      fg::residual(fg::rmsnorm<moe.hidden>{} | fg::attention<moe.hidden, 2>{}) |
      fg::residual(fg::rmsnorm<moe.hidden>{} | FeedForward{}) | fg::head<moe.hidden, 256>{};
};
using dense = fg::network<reader<fg::mlp<moe.hidden, moe.width>>, fg::cpu>;
using sparse = fg::network<reader<fg::mixture<moe>>, fg::cpu>;

int main(int count, char** words) try {
  fg::options given(count, words);
  auto const text = some_text(given.text("--text", ""));
  std::string const out = given.text("--out", "out/arms");
  fg::study_settings how{.out = out + "/dense",
                         .pool = out + "/pool",
                         .seeds = int(given.number("--seeds", 2)),
                         .steps = given.number("--steps", 40),
                         .sequences = 4,
                         .length = 64,
                         .deviation = 0.1,
                         .optimizer = {.lr = 4e-3}};
  given.done();

  std::vector<dense> teachers;  // one a seed
  {                             // a pool belongs to one study at a time
    fg::study first(text, how, nullptr);
    first.add<dense>("dense");
    if (!first.run()) return 130;
    for (int seed = 0; seed < how.seeds; ++seed)
      fg::load_weights(teachers.emplace_back(fg::initialisation{.deviation = 0}),
                       first.weights_file("dense", seed));
  }

  how.out = out;
  fg::study study(text, how);
  auto dropping = how.training;
  dropping.routing.capacity = 1;
  auto const upcycled = [&](sparse& net, std::uint64_t seed) {
    upcycle<moe.routed>(teachers[seed], net);
  };
  std::string const dense_run = "from dense, " + std::to_string(how.steps) + " steps";

  // [example]
  study.add<sparse>("from scratch");
  study.add<sparse>("upcycled").start(dense_run, upcycled);
  study.add<sparse>("upcycled, capacity 1", dropping).start(dense_run, upcycled);
  study.add<sparse>("upcycled, controlled")
      .start(dense_run, upcycled)
      .after_step("biases by 0.02 of what experts lack", [](auto& train, fg::step_report const&) {
        fg::routing_report const& did = train.log().layers[0];
        auto const bias = train.network().weight("mixture.bias");
        double const mean = double(did.tokens * moe.top_k) / moe.routed;
        for (int e = 0; e < moe.routed; ++e)
          bias(0, e) += float(0.02 * (1 - double(did.load[std::size_t(e)]) / mean));
      });
  if (!study.run()) return 130;
  // [/example]

  fg::study_results const all = study.report("Mixtures that start from a dense model");
  fg::number_table const dropped = *all.of("upcycled, capacity 1").measured_as("dropped");
  std::printf("%s\nwith a capacity of 1, %.0f %% of slots were dropped in the last steps\n",
              all.summary(false).plain().c_str(), 100 * dropped.back()[0]);
  double const scratch = fg::estimate_mean(all.of("from scratch").validation).mean,
               better = fg::estimate_mean(all.of("upcycled").validation).mean;
  return better < scratch ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
