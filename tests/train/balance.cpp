// Balance in training: selection biases, steps of several batches, jitter and noise.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/trainer.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "../tiny.hpp"

namespace {

namespace fg = finegrain;
using family::D;
constexpr fg::config biased = fg::profiles::deepseek_v3_hf(family::in_groups);
template <fg::config C>
using net_of = fg::network<fg::mixture<C>, fg::reference>;

struct task {
  std::vector<double> x, y;
  std::int64_t tokens;
  explicit task(std::int64_t tokens, std::uint64_t seed = 1) : tokens(tokens) {
    for (std::int64_t i = 0; i < tokens * D; ++i) {
      x.push_back(fg::random_normal(seed, std::uint64_t(i)) + (i % D == 0));  // a common direction
      y.push_back(fg::random_normal(seed + 1, std::uint64_t(i)));
    }
  }
  fg::matrix<double const> in(std::int64_t first = 0, std::int64_t count = -1) const {
    return {x.data() + first * D, count < 0 ? tokens : count, D};
  }
  fg::matrix<double const> out(std::int64_t first = 0, std::int64_t count = -1) const {
    return {y.data() + first * D, count < 0 ? tokens : count, D};
  }
};

template <class Net>
std::vector<double> biases(Net& net) {
  auto const b = net.weight("bias");
  return {b.data, b.data + b.size()};
}

TEST_CASE("a bias moves by speed, up where an expert was chosen less often than the mean") {
  net_of<biased> net({.deviation = 0.5});
  fg::trainer train{net, {.lr = 1e-9}, {.bias = {.speed = 0.25}}};
  task const t(40);
  train.step(t.in(), t.out());
  auto const& load = train.log().layers[0].load;
  auto const b = biases(net);
  bool moved = false;
  for (std::size_t e = 0; e < 6; ++e) {
    double const mean = 80.0 / 6;
    CHECK(b[e] == (double(load[e]) < mean ? 0.25 : -0.25));
    moved |= load[e] != load[0];
  }
  CHECK(moved);
}

TEST_CASE("equal loads are the fixed point of biases: they stay") {
  constexpr fg::config one = [] {
    fg::config c = biased;
    c.groups = c.group_limit = 1, c.top_k = 6;  // every expert is chosen by every token
    return c;
  }();
  net_of<one> net({.deviation = 0.5});
  fg::trainer train{net, {.lr = 1e-3}, {.bias = {.speed = 0.25}}};
  task const t(40);
  for (int i = 0; i < 3; ++i) train.step(t.in(), t.out());
  CHECK(biases(net) == std::vector<double>(6, 0.0));
}

TEST_CASE("centred biases have a mean of 0 and choose the same experts") {
  net_of<biased> free({.deviation = 0.5}), centred({.deviation = 0.5});
  fg::trainer a{free, {.lr = 1e-3}, {.bias = {.speed = 0.01}}};
  fg::trainer b{centred, {.lr = 1e-3}, {.bias = {.speed = 0.01, .centre = true}}};
  task const t(40);
  for (int i = 0; i < 20; ++i) {
    a.step(t.in(), t.out());
    b.step(t.in(), t.out());
    CHECK(a.log().layers[0].load == b.log().layers[0].load);
  }
  double mean = 0;
  for (double n : biases(centred)) mean += n;
  CHECK(mean == Approx(0).margin(1e-12));
}

/// The busiest expert's load over the mean, after steps of a rule.
double busiest(fg::bias_update const& how, int steps) {
  net_of<biased> net({.deviation = 0.5});
  fg::trainer train{net, {.lr = 1e-9}, {.bias = how}};
  task const t(120);
  for (int i = 0; i < steps; ++i) train.step(t.in(), t.out());
  auto const& load = train.log().layers[0].load;
  return double(*std::max_element(load.begin(), load.end())) / 40;
}

TEST_CASE("biases balance a router that no loss moves, by sign and by quantile") {
  double const before = busiest({}, 1);
  CHECK(before > 1.3);
  CHECK(busiest({.speed = 0.01}, 200) < 1 + (before - 1) / 2);
  CHECK(busiest({.quantile = true}, 20) < 1 + (before - 1) / 2);
}

TEST_CASE("biases move once a step, by the counts of all its batches, and by no other pass") {
  task const t(40);
  net_of<biased> whole({.deviation = 0.5}), parts({.deviation = 0.5});
  fg::training const how{.bias = {.speed = 0.125}};
  fg::trainer one{whole, {.lr = 1e-2}, how}, several{parts, {.lr = 1e-2}, how};
  std::vector<double> y(40 * D);
  for (int step = 0; step < 5; ++step) {
    one.step(t.in(), t.out());
    for (std::int64_t first : {0, 10, 20, 30}) {
      several.gather({.tokens = 10}, t.in(first, 10), t.out(first, 10));
      // what recomputation does, and an evaluation between batches
      parts.forward({.tokens = 40}, t.in(), {y.data(), 40, D});
      several.evaluate(t.in(), t.out());
    }
    several.finish();
    CHECK(biases(whole) == biases(parts));
    double worst = 0;
    for (std::size_t i = 0; i < whole.parameters().size(); ++i)
      worst = std::max(worst, std::abs(whole.parameters()[i] - parts.parameters()[i]));
    CHECK(worst < 1e-6);  // gradients are the mean of the batches', summed in another order
  }
  CHECK_THROWS_WITH(several.finish(), ContainsSubstring("needs a batch"));
}

TEST_CASE(
    "quantiles are the mean of the step's batches, and of those without tokens there are none") {
  task const t(40);
  net_of<biased> plain({.deviation = 0.5}), with_empty({.deviation = 0.5});
  fg::training const how{.bias = {.quantile = true}};
  fg::trainer two{plain, {.lr = 1e-9}, how}, four{with_empty, {.lr = 1e-9}, how};
  two.gather({.tokens = 20}, t.in(0, 20), t.out(0, 20));
  two.gather({.tokens = 20}, t.in(20, 20), t.out(20, 20));
  two.finish();
  four.gather({.tokens = 0}, t.in(0, 0), t.out(0, 0));
  four.gather({.tokens = 20}, t.in(0, 20), t.out(0, 20));
  four.gather({.tokens = 0}, t.in(0, 0), t.out(0, 0));
  four.gather({.tokens = 20}, t.in(20, 20), t.out(20, 20));
  four.finish();
  CHECK(biases(plain) != std::vector<double>(6, 0.0));
  CHECK(biases(with_empty) == biases(plain));
}

TEST_CASE("a loss over the batch sees the counts of the step's earlier batches") {
  task const t(40);
  net_of<family::base> net({.deviation = 0.5});
  fg::trainer train{net, {}, {.routing = {.balance = {.expert = 1}}}};
  double const whole = train.step(t.in(), t.out()).balance_loss;
  net_of<family::base> again({.deviation = 0.5});
  fg::trainer parts{again, {}, {.routing = {.balance = {.expert = 1}}}};
  parts.gather({.tokens = 20}, t.in(0, 20), t.out(0, 20));
  double const second = parts.gather({.tokens = 20}, t.in(20, 20), t.out(20, 20)).balance_loss;
  net_of<family::base> alone({.deviation = 0.5});
  fg::trainer half{alone, {}, {.routing = {.balance = {.expert = 1}}}};
  double const by_itself = half.step(t.in(20, 20), t.out(20, 20)).balance_loss;
  // f of all 40 tokens, P of the last 20
  CHECK(second != by_itself);
  auto const& load = parts.log().layers[0];
  CHECK(std::abs(second - whole) < 0.2);
  CHECK(load.tokens == 20);
}

TEST_CASE("jitter and noise differ from step to step and not from run to run") {
  constexpr fg::config jittered = fg::profiles::switch_top1(family::base);
  task const t(40);
  auto const run = [&](double jitter, std::uint64_t seed) {
    net_of<jittered> net({.deviation = 0.5});
    fg::trainer train{net, {.lr = 1e-9}, {.routing = {.jitter = jitter, .seed = seed}}};
    std::vector<double> losses;
    for (int i = 0; i < 3; ++i) losses.push_back(train.step(t.in(), t.out()).loss);
    return losses;
  };
  auto const a = run(0.3, 1);
  CHECK(a == run(0.3, 1));
  CHECK(a != run(0.3, 2));
  CHECK(a[0] != a[1]);
  auto const still = run(0, 1);
  CHECK(still[0] == Approx(still[1]).epsilon(1e-6));
}

TEST_CASE("a model whose layers route differently learns: dense, by id, by score with biases") {
  constexpr fg::architecture mixed = [] {
    fg::architecture a = tiny::numbers;
    a.layers = 3, a.hash_layers = 1;
    return fg::checked(a);
  }();
  fg::network<fg::decoder<mixed>, fg::reference> net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, {.lr = 1e-2}, {.bias = {.speed = 0.01}}};
  std::vector<std::int32_t> ids, next;
  for (int i = 0; i < 40; ++i) ids.push_back(i * 7 % 9), next.push_back((i + 1) * 7 % 9);
  std::vector<double> const table(net.weight("layers.1.mixture.table").data,
                                  net.weight("layers.1.mixture.table").data + 64);
  double const before = train.evaluate(ids, next);
  for (int i = 0; i < 40; ++i) train.step(ids, next);
  CHECK(train.evaluate(ids, next) < before / 2);
  CHECK(train.log().layers.size() == 2);
  CHECK(std::equal(table.begin(), table.end(), net.weight("layers.1.mixture.table").data));
  double moved = 0;
  for (int e = 0; e < 4; ++e) moved += std::abs(net.weight("layers.2.mixture.bias")(0, e));
  CHECK(moved > 0);
  CHECK_THROWS_WITH(net.weight("layers.1.mixture.bias"), ContainsSubstring("no weight"));
}

TEST_CASE("settings of biases that make no sense are refused") {
  net_of<biased> net;
  CHECK_THROWS_WITH((fg::trainer{net, {}, {.bias = {.speed = -1}}}), ContainsSubstring("speed"));
  net_of<family::base> without;
  for (fg::bias_update const how : {fg::bias_update{.speed = 1}, fg::bias_update{.quantile = true}})
    CHECK_THROWS_WITH((fg::trainer{without, {}, {.bias = how}}), ContainsSubstring("config.bias"));
}

TEST_CASE("biases of another number than a report's experts are refused") {
  fg::routing_report const report(4);
  for (std::size_t n : {3, 5}) {
    std::vector<float> bias(n);
    CHECK_THROWS_WITH(fg::move_bias(std::span(bias), report, 1, {.speed = 0.1}),
                      std::to_string(n) + " selection biases cannot follow a report of 4 experts");
  }
}

TEST_CASE("biases do not move to quantiles that nobody asked a batch for") {
  net_of<biased> net;
  fg::routing_log log = net.make_log();
  task const t(20);
  std::vector<double> y(t.y.size());
  for (bool const asked : {true, false}) {
    net.infer({.tokens = t.tokens, .routing = {.quantiles = asked}, .log = &log}, t.in(),
              fg::matrix<double>(y.data(), t.tokens, D));
    for (fg::routing_report const& report : log.layers) {
      std::vector<float> bias(report.load.size(), 7.0f);
      auto const move = [&] { fg::move_bias(std::span(bias), report, 1, {.quantile = true}); };
      if (asked) {
        CHECK_NOTHROW(move());
        continue;
      }
      CHECK_THROWS_WITH(move(), ContainsSubstring("set the batch's .routing.quantiles"));
      CHECK(bias == std::vector<float>(bias.size(), 7.0f));
    }
  }
}

}  // namespace
