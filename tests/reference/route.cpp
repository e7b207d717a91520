// The reference's router: which experts a token is sent to, with what weights, and the balance loss.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/stages.hpp>
#include <finegrain/reference/route.hpp>
#include <numeric>
#include <set>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using fg::config, fg::routing_request;

struct routed {
  std::vector<int> experts;
  numbers weights, scores;
};

/// Routes one token with the given logits: x is 1 and the router a column of them.
routed route(config const& c, numbers const& logits, numbers const& bias = {},
             routing_request const& request = {}) {
  fg::checked(c);
  fg::buffer<> const memory = poisoned(1 << 16);
  fg::arena arena(memory.data(), memory.size());
  fg::extent const e{1, 1, false};
  fg::routing<double> const r(arena, e, c);
  fg::router_scratch<double> const scratch(arena, e, c);
  fg::router_weights<double const> w;
  w.router = view(logits, c.routed, 1);
  w.bias = view(bias, bias.empty() ? 0 : 1, c.routed);
  fg::batch const b{.tokens = 1, .routing = request};
  fg::route_forward(on, c, b, view(numbers{1}, 1, 1), w, r, scratch);
  routed result;
  for (int slot = 0; slot < fg::chosen(c, request); ++slot) {
    result.experts.push_back(r.experts(0, slot));
    result.weights.push_back(r.weights(0, slot));
  }
  result.scores.assign(r.scores.row(0), r.scores.row(0) + c.routed);
  return result;
}

using list = std::vector<int>;
config sigmoid(int routed, int k) {
  return {.hidden = 1, .width = 1, .routed = routed, .top_k = k, .score = fg::score::sigmoid};
}
config softmax(int routed, int k) {
  return {.hidden = 1, .width = 1, .routed = routed, .top_k = k};
}
config biased(config c) {
  c.bias = true;
  return c;
}
config grouped(config c, int groups, int limit, fg::group_score by = fg::group_score::max) {
  c.groups = groups, c.group_limit = limit, c.group_score = by;
  return c;
}

TEST_CASE("the k highest scores are chosen, best first") {
  CHECK(route(softmax(5, 3), {1, 5, 2, 4, 3}).experts == list{1, 3, 4});
  CHECK(route(softmax(5, 5), {1, 5, 2, 4, 3}).experts == list{1, 3, 4, 2, 0});
}

TEST_CASE("ties go to the lowest index") {
  CHECK(route(softmax(5, 3), {0, 0, 0, 0, 0}).experts == list{0, 1, 2});
  CHECK(route(softmax(5, 3), {0, 1, 0, 1, 0}).experts == list{1, 3, 0});
  CHECK(route(grouped(sigmoid(6, 2), 3, 1), {0, 0, 0, 0, 0, 0}).experts == list{0, 1});
  CHECK(route(grouped(sigmoid(6, 2), 3, 1), {0, 0, 0, 1, 1, 0}).experts == list{3, 2});
}

TEST_CASE("NaN ranks below -inf; a token of NaN goes to the first experts") {
  CHECK(route(softmax(4, 2), {0, poison, 3, 1}).experts == list{0, 1});  // softmax spreads it
  CHECK(route(sigmoid(4, 3), {0, poison, 3, 1}).experts == list{2, 3, 0});
  CHECK(route(biased(sigmoid(4, 4)), {0, 0, 0, 0}, {poison, -infinity, 1, poison}).experts ==
        list{2, 1, 0, 3});
  CHECK(route(softmax(3, 2), {infinity, 0, 0}).experts == list{0, 1});
  CHECK(route(softmax(3, 2), {-infinity, 0, 1}).experts == list{2, 1});
}

/// The same choice by sorting.
list by_sorting(config const& c, numbers keys, routing_request const& request) {
  auto const better = [](double a, double b) { return a > b || (b != b && a == a); };
  int const size = c.routed / c.groups;
  std::vector<std::pair<double, int>> groups;
  for (int g = 0; g < c.groups; ++g) {
    numbers mine(keys.begin() + g * size, keys.begin() + (g + 1) * size);
    std::stable_sort(mine.begin(), mine.end(), better);
    groups.push_back({c.group_score == fg::group_score::max ? mine[0] : mine[0] + mine[1], g});
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [&](auto a, auto b) { return better(a.first, b.first); });
  list order;
  for (int i = 0; i < c.routed; ++i)
    for (int g = 0; g < c.group_limit; ++g)
      if (c.groups == 1 || i / size == groups[std::size_t(g)].second) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](int i, int j) {
    return better(keys[std::size_t(i)], keys[std::size_t(j)]);
  });
  auto const first = order.begin() + request.mask_best;
  return {first, first + fg::chosen(c, request)};
}

TEST_CASE("for any keys at all, the choice is distinct, in range, and what sorting would choose") {
  numbers const odd{0, 0, 1, -1, 0.5, infinity, -infinity, poison, 1e300, -0.0};
  std::uint64_t n = 0;
  auto const random = [&](std::uint64_t below) { return fg::random_word(5, n++) % below; };
  for (int i = 0; i < 20'000; ++i) {
    config c = biased(sigmoid(8, 1 + int(random(4))));
    c.groups = 1 << random(3);
    c.group_limit = 1 + int(random(std::uint64_t(c.groups)));
    c.group_score = random(2) ? fg::group_score::max : fg::group_score::top2_sum;
    if (8 / c.groups * c.group_limit < c.top_k) continue;
    routing_request request;
    request.mask_best = int(random(std::uint64_t(8 / c.groups * c.group_limit - c.top_k) + 1));
    numbers logits(8), bias(8);
    for (double& b : bias) b = random(2) ? odd[random(odd.size())] : double(random(3));
    for (double& l : logits) l = random(4) ? double(random(3)) : odd[random(odd.size())];

    routed const r = route(c, logits, bias, request);
    REQUIRE(std::set<int>(r.experts.begin(), r.experts.end()).size() == std::size_t(c.top_k));
    REQUIRE(*std::min_element(r.experts.begin(), r.experts.end()) >= 0);
    REQUIRE(*std::max_element(r.experts.begin(), r.experts.end()) < 8);
    numbers keys = r.scores;
    for (std::size_t k = 0; k < 8; ++k) keys[k] += bias[k];
    REQUIRE(r.experts == by_sorting(c, keys, request));
  }
}

TEST_CASE("experts come from at most group_limit groups, the best by max or by the best two") {
  numbers const logits{9, 0, 0, 7, 7, 0, 5, 5, 5};
  CHECK(route(grouped(sigmoid(9, 2), 3, 1), logits).experts == list{0, 1});
  auto const two = fg::group_score::top2_sum;
  CHECK(route(grouped(sigmoid(9, 2), 3, 1, two), logits).experts == list{3, 4});
  CHECK(route(grouped(sigmoid(9, 3), 3, 2, two), logits).experts == list{3, 4, 6});
  CHECK(route(sigmoid(9, 3), logits).experts == list{0, 3, 4});
}

TEST_CASE("a group that is out stays out, however negative the keys of the others are") {
  config const c = biased(grouped(sigmoid(4, 2), 2, 1));
  CHECK(route(c, {0, 0, 0, 0}, {-3, -9, -4, -4}).experts == list{0, 1});
}

TEST_CASE("the selection bias moves the choice and never the weights") {
  config const c = biased(sigmoid(3, 1));
  routed const before = route(c, {2, 0, -1}, {0, 0, 0}), after = route(c, {2, 0, -1}, {0, 0, 5});
  CHECK(before.experts == list{0});
  CHECK(after.experts == list{2});
  CHECK(after.weights[0] == after.scores[2]);
  CHECK(after.scores == before.scores);
}

TEST_CASE("scores are softmax, sigmoid or the root of softplus, at any size of logits") {
  CHECK(route(softmax(2, 1), {0, std::log(3)}).scores[1] == Approx(0.75));
  CHECK(route(sigmoid(1, 1), {std::log(3)}).scores[0] == Approx(0.75));
  config root = sigmoid(3, 1);
  root.score = fg::score::sqrt_softplus;
  CHECK(route(root, {0, 0, 4}).scores[0] == Approx(std::sqrt(std::log(2))));
  CHECK(route(softmax(3, 1), {1e4, 1e4, -1e4}).scores == numbers{0.5, 0.5, 0});
  CHECK(route(sigmoid(3, 1), {1e4, 0, -1e4}).scores == numbers{1, 0.5, 0});
  CHECK(route(root, {1e4, 0, -1e4}).scores[0] == 100);
  CHECK(route(root, {1e4, 0, -1e4}).scores[2] == 0);
}

TEST_CASE("gradients of scores stay finite where scores are 0 or 1") {
  for (auto score : {fg::score::softmax, fg::score::sigmoid, fg::score::sqrt_softplus}) {
    config c = sigmoid(3, 1);
    c.score = score;
    numbers ds{1, 1, 1};
    fg::spec::score_backward(c, route(c, {-1e4, 0, 1e4}).scores.data(), ds.data());
    for (double g : ds) CHECK(std::isfinite(g));
    CHECK(ds[0] == 0);
  }
}

TEST_CASE("weights are scores, divided by their sum if asked, times the scale") {
  config c = sigmoid(4, 2);
  routed const raw = route(c, {1, 0, 2, -1});
  CHECK(raw.weights == numbers{raw.scores[2], raw.scores[0]});
  c.scale = 2.5;
  CHECK(route(c, {1, 0, 2, -1}).weights[1] == Approx(2.5 * raw.scores[0]));
  c.renormalise = true;
  numbers const w = route(c, {1, 0, 2, -1}).weights;
  CHECK(w[0] + w[1] == Approx(2.5));
  CHECK(w[0] / w[1] == Approx(raw.scores[2] / raw.scores[0]));
  CHECK(route(c, {-1e4, -1e4, -1e4, -1e4}).weights == numbers{0, 0});  // a sum of 0 divides nothing
}

TEST_CASE("a request moves k, or leaves the best experts out") {
  numbers const logits{1, 5, 2, 4, 3};
  CHECK(route(softmax(5, 2), logits, {}, {.top_k = 1}).experts == list{1});
  CHECK(route(softmax(5, 2), logits, {}, {.top_k = 3}).experts == list{1, 3, 4});
  CHECK(route(softmax(5, 2), logits, {}, {.mask_best = 2}).experts == list{4, 2});
  CHECK(route(softmax(5, 2), logits, {}, {.top_k = 3, .mask_best = 2}).experts == list{4, 2, 0});
  config const c = grouped(sigmoid(6, 1), 3, 2);
  CHECK(route(c, {9, 1, 8, 2, 7, 3}, {}, {.mask_best = 2}).experts == list{3});
}

TEST_CASE("a request that cannot be met is refused") {
  config const c = softmax(5, 2);
  numbers const logits(5, 0);
  for (auto request :
       {routing_request{.top_k = 4}, routing_request{.top_k = 6}, routing_request{.mask_best = 4},
        routing_request{.mask_best = -1}, routing_request{.balance = {.expert = -1}}})
    CHECK_THROWS_AS(route(c, logits, {}, request), fg::invalid_argument);
}

// ---- the balance loss ---------------------------------------------------------------------------

/// The report on tokens of the given scores, all of whose experts are given.
fg::routing_report report(config const& c, numbers scores, std::vector<std::int32_t> experts,
                          double alpha) {
  std::int64_t const tokens = std::int64_t(scores.size()) / c.routed;
  fg::buffer<> const memory = poisoned(1 << 16);
  fg::arena arena(memory.data(), memory.size());
  fg::extent const e{tokens, 1, true};
  fg::routing<double> r(arena, e, c);
  fg::router_scratch<double> const scratch(arena, e, c);
  std::copy(scores.begin(), scores.end(), r.scores.data);
  std::copy(experts.begin(), experts.end(), r.experts.data);
  fg::routing_log log;
  log.layers.resize(1);
  fg::batch const b{.tokens = tokens, .routing = {.balance = {.expert = alpha}}};
  fg::balance_forward(on, c, b, r, scratch.balance);
  fg::report_routing(c, b, r, {}, scratch.balance, log);
  CHECK(log.next == 1);
  return log.layers[0];
}

TEST_CASE("the balance loss is alpha at perfect balance") {
  for (auto score : {fg::score::softmax, fg::score::sigmoid}) {
    config c = softmax(4, 2);
    c.score = score;
    auto const r = report(c, numbers(8, 0.25), {0, 1, 2, 3}, 0.01);
    CHECK(r.balance_loss == Approx(0.01));
    CHECK(r.load == std::vector<std::int64_t>{1, 1, 1, 1});
    CHECK(r.mean_score == numbers(4, 0.25));
  }
}

TEST_CASE("the balance loss is alpha R / K when all tokens go to the same K experts") {
  config const c = softmax(64, 4);
  numbers one(64, 0);
  std::fill_n(one.begin(), 4, 0.25);
  auto const r =
      report(c, joined(joined(one, one), one), {0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3}, 0.5);
  CHECK(r.balance_loss == Approx(0.5 * 64 / 4));
  CHECK(r.load[0] == 3);
  CHECK(r.load[4] == 0);
}

TEST_CASE("the balance loss reads scores that sum to 1, whatever a token's scores sum to") {
  config const c = sigmoid(2, 1);
  auto const r = report(c, {0.2, 0.6, 0.9, 0.9}, {1, 0}, 1);
  CHECK(r.mean_score[0] == Approx((0.25 + 0.5) / 2));
  CHECK(r.mean_score[1] == Approx((0.75 + 0.5) / 2));
  CHECK(report(c, {0, 0}, {0}, 1).balance_loss == 0);
}

TEST_CASE("a report on no tokens is all zeros") {
  auto const r = report(softmax(4, 2), {}, {}, 1);
  CHECK(r.load == std::vector<std::int64_t>(4, 0));
  CHECK(r.mean_score == numbers(4, 0));
  CHECK(r.balance_loss == 0);
}

TEST_CASE("a log without room for another router is refused") {
  fg::routing_log log;
  config const c = softmax(2, 1);
  fg::buffer<> const memory = poisoned(4096);
  fg::arena arena(memory.data(), memory.size());
  fg::extent const e{0, 1, true};
  fg::routing<double> const r(arena, e, c);
  fg::router_scratch<double> const scratch(arena, e, c);
  CHECK_THROWS_AS(fg::report_routing(c, {}, r, {}, scratch.balance, log), fg::invalid_argument);
}

}  // namespace
