// Balance losses: their values at perfect balance and at collapse, their windows, and reports.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/report.hpp>
#include <finegrain/reference/mixture.hpp>

#include "../catch.hpp"
#include "../reference/layer.hpp"

namespace {

using namespace under_test;

/// The report on tokens whose scores and experts are given. Logits are the scores' logarithms, and a
/// number that softmax does not see.
struct given {
  fg::config c{.hidden = 1, .width = 1, .routed = 8, .top_k = 2};
  double above = 0;
  fg::routing_request request;
  std::vector<std::int64_t> starts;

  fg::routing_report report(numbers scores, std::vector<std::int32_t> experts,
                            fg::routing_report const* earlier = nullptr) {
    std::int64_t const T = std::int64_t(scores.size()) / c.routed;
    fg::buffer<> const memory = poisoned(1 << 18);
    fg::arena arena(memory.data(), memory.size());
    fg::extent const e{T, 1, true};
    fg::routing<double> r(arena, e, c);
    fg::router_scratch<double> const scratch(arena, e, c);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      r.scores.data[i] = scores[i];
      r.logits.data[i] = std::log(scores[i]) + above;
    }
    std::copy(experts.begin(), experts.end(), r.experts.data);
    for (std::int64_t i = 0; i < r.smooth.size(); ++i) r.smooth.data[i] = double(i);  // of before
    for (std::int64_t t = 0; t < T; ++t)
      for (int slot = 0; slot < c.top_k; ++slot)
        r.weights(t, slot) =
            r.experts(t, slot) == fg::no_expert ? 0 : r.scores(t, r.experts(t, slot));
    fg::routing_log log{{fg::routing_report(c.routed)}}, before;
    fg::batch b{.tokens = T, .starts = starts, .routing = request, .log = &log};
    if (earlier) {
      before.layers.push_back(*earlier);
      b.routing.earlier = &before;
    }
    fg::balance_forward(on, c, b, r, scratch.balance);
    fg::report_routing(c, b, r, {}, scratch.balance, log);
    return log.layers[0];
  }
  double loss(numbers scores, std::vector<std::int32_t> experts) {
    return report(std::move(scores), std::move(experts)).balance_loss;
  }
};

numbers const even(4 * 8, 0.125);
std::vector<std::int32_t> const each_twice{0, 4, 1, 5, 2, 6, 3, 7};

/// T tokens with all their probability on experts 0 and 1.
numbers collapsed(int T) {
  numbers all;
  for (int t = 0; t < T; ++t)
    for (int e = 0; e < 8; ++e) all.push_back(e < 2 ? 0.5 : 0);
  return all;
}
std::vector<std::int32_t> const same_two{0, 1, 1, 0, 0, 1, 0, 1};

TEST_CASE("every loss is its coefficient at perfect balance") {
  for (auto over : {fg::window::batch, fg::window::sequence}) {
    given g;
    g.request.devices = 2;  // a token's two experts stand on both
    if (over == fg::window::sequence) g.starts = {0, 4};
    CHECK((g.request.balance = {.expert = 0.3, .over = over}, g.loss(even, each_twice)) ==
          Approx(0.3));
    CHECK((g.request.balance = {.device = 0.3, .over = over}, g.loss(even, each_twice)) ==
          Approx(0.3));
    CHECK((g.request.balance = {.communication = 0.3, .over = over}, g.loss(even, each_twice)) ==
          Approx(0.3));
  }
  given g;
  g.c.groups = g.c.group_limit = g.request.devices = 4;  // of which two experts reach two
  g.request.balance = {.communication = 0.3};
  CHECK(g.loss(even, each_twice) == Approx(0.3));
  g.request.balance = {.importance = 0.3};
  CHECK(g.loss(even, each_twice) == Approx(0).margin(1e-12));
}

TEST_CASE("losses at collapse: R / K of experts, D of devices, CV^2 = R / K - 1 of importance") {
  given g;
  g.request.devices = 4;
  g.request.balance = {.expert = 1};
  CHECK(g.loss(collapsed(4), same_two) == Approx(4));
  g.request.balance = {.device = 1};
  CHECK(g.loss(collapsed(4), same_two) == Approx(4));
  g.request.balance = {.importance = 1};
  CHECK(g.loss(collapsed(4), same_two) == Approx(3));
  // All tokens on one of four devices, though each may use two: D / M of what M even ones cost.
  g.request.balance = {.communication = 1};
  CHECK(g.loss(collapsed(4), same_two) == Approx(2));
}

TEST_CASE("the sequence loss counts the best scores, whatever was chosen") {
  given g;
  g.starts = {0, 4};
  g.request.balance = {.sequence = 1};
  CHECK(g.loss(collapsed(4), {6, 7, 6, 7, 6, 7, 6, 7}) == Approx(4));
}

TEST_CASE("no tokens cost nothing, whatever is asked for and memory holds") {
  given of{.c = {.hidden = 1, .width = 1, .routed = 8, .top_k = 2, .noisy = true},
           .request = {.balance = {.expert = 1, .z = 1, .importance = 1, .load = 1}},
           .starts = {}};
  CHECK(of.loss({}, {}) == 0);
}

TEST_CASE("windows of sequences see what a batch evens out") {
  given g;
  numbers scores = collapsed(2);
  for (int t = 0; t < 2; ++t)
    for (int e = 0; e < 8; ++e) scores.push_back(e >= 6 ? 0.5 : 0);
  std::vector<std::int32_t> const experts{0, 1, 0, 1, 6, 7, 6, 7};
  g.starts = {0, 2, 2, 4};  // the empty one does not count
  g.request.balance = {.expert = 1, .over = fg::window::batch};
  CHECK(g.loss(scores, experts) == Approx(2));
  g.request.balance.over = fg::window::sequence;
  CHECK(g.loss(scores, experts) == Approx(4));
}

TEST_CASE("z is the mean squared log sum exp") {
  given g;
  g.request.balance = {.z = 0.5};
  CHECK(g.loss(even, each_twice) == Approx(0).margin(1e-12));
  g.c.score = fg::score::sigmoid;  // whose scores say nothing of logits' sum: logits are log 0.5
  CHECK(g.loss(numbers(8, 0.5), {0, 1}) == Approx(0.5 * std::pow(std::log(4), 2)));
}

TEST_CASE("choices of a step's earlier batches join those of this one") {
  given g;
  g.request.balance = {.expert = 1};
  fg::routing_report earlier(8);
  earlier.tokens = 4;
  for (std::size_t e = 2; e < 8; ++e) earlier.load[e] = e < 4 ? 2 : 1;  // 8 slots of others
  auto const alone = g.report(collapsed(4), same_two);
  auto const joined = g.report(collapsed(4), same_two, &earlier);
  CHECK(alone.balance_loss == Approx(4));
  CHECK(joined.balance_loss == Approx(2));
}

struct squares : fg::balance_rule {
  void factors(std::span<double const> f, std::span<double> factors) const override {
    for (std::size_t i = 0; i < f.size(); ++i) factors[i] = f[i] * f[i];
  }
};

TEST_CASE("slots that tokens do not use count for nobody") {
  constexpr auto none = fg::no_expert;
  std::vector<std::int32_t> const one{0, none, 1, none, 2, none, 3, none};
  given g;
  g.c.routed = 4;
  g.c.selection = fg::selection::rule;
  g.request.devices = 2;
  numbers const even_four(4 * 4, 0.25);
  g.starts = {0, 2, 4};
  g.request.balance = {.expert = 0.3};
  CHECK(g.loss(even_four, one) == Approx(0.3));
  g.request.balance = {.device = 0.3};
  CHECK(g.loss(even_four, one) == Approx(0.3));
  g.request.balance = {.expert = 0.3, .over = fg::window::sequence};
  CHECK(g.loss(even_four, one) == Approx(0.3));
  CHECK(g.loss(even_four, {0, none, 1, 2, 3, none, none, none}) == Approx(0.3));
  CHECK(g.loss(even_four, std::vector<std::int32_t>(8, none)) == 0);

  fg::routing_report earlier(4);  // of two tokens, one of which used a second slot
  earlier.tokens = 2;
  earlier.load = {3, 0, 0, 0};
  squares const rule;
  g.request.balance = {.rule = &rule};
  CHECK(g.report(even_four, one, &earlier).balance_loss == Approx(304.0 / 196));
}

TEST_CASE("a loss of one's own joins the others") {
  given g;
  squares const rule;
  g.request.balance = {.rule = &rule};
  CHECK(g.loss(even, each_twice) == Approx(1));
  CHECK(g.loss(collapsed(4), same_two) == Approx(16));
  g.request.balance.expert = 1;
  CHECK(g.loss(collapsed(4), same_two) == Approx(20));
}

TEST_CASE("a report tells entropy and devices") {
  given g;
  g.request.devices = 4;
  auto const balanced = g.report(even, each_twice);
  CHECK(balanced.entropy == Approx(1));
  CHECK(balanced.devices == Approx(2));
  CHECK(balanced.tokens == 4);
  auto const one = g.report(collapsed(4), same_two);
  CHECK(one.entropy == Approx(std::log(2) / std::log(8)));
  CHECK(one.devices == Approx(1));
}

TEST_CASE("entropy is that of the scores, rounded to bf16 or not, wherever their logits lie") {
  for (double above : {0.0, -30.0, 1000.0}) {
    given g;
    g.above = above;
    CHECK(g.report(even, each_twice).entropy == Approx(1));
    g.c.routed = 6;
    g.c.precision = fg::precision::bf16;
    numbers const sixth(4 * 6, 0.1669921875);  // as bf16 has it: six are more than 1
    CHECK(g.report(sixth, {0, 3, 1, 4, 2, 5, 0, 3}).entropy == Approx(1));
  }
}

}  // namespace
