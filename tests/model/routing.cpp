// A network's routers: what a call may ask of them, and the log of what they did.
// SPDX-License-Identifier: Apache-2.0
#include <climits>
#include <cmath>
#include <numeric>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "block.hpp"

namespace fg = finegrain;
using namespace small;

TEMPLATE_TEST_CASE("what a router cannot do is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto const refused = [&](fg::routing_request request, bool training = false) {
    fg::batch const b{.tokens = 4, .routing = request};
    if (training)
      CHECK_THROWS_AS(net.forward(b, x, y), fg::invalid_argument);
    else
      CHECK_THROWS_AS(net.infer(b, x, y), fg::invalid_argument);
  };
  refused({.top_k = 4});
  refused({.top_k = 3}, true);  // one more than configured only where nothing is trained
  refused({.top_k = -1, .mask_best = -1});
  refused({.mask_best = 5});
  refused({.mask_best = INT_MAX});
  refused({.mask_best = -1});
  refused({.balance = {.expert = -1}}, true);
  refused({.balance = {.expert = NAN}}, true);
  CHECK(y.untouched());
  CHECK_NOTHROW(net.infer({.tokens = 4, .routing = {.top_k = 3, .mask_best = 3}}, x, y));
}

TEMPLATE_TEST_CASE("a request for more experts than the best groups have is refused", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr fg::config grouped{
      .hidden = 16, .width = 8, .routed = 6, .top_k = 2, .groups = 3, .group_limit = 1};
  fg::network<fg::mixture<grouped>, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .routing = {.top_k = 3}}, x, y),
                    ContainsSubstring("1 to 2 experts"));
  CHECK(y.untouched());
}

TEMPLATE_TEST_CASE("a rule and jitter are for the routers that have them, and refused if none has",
                   "", EXECUTORS) {
  using S = typename TestType::scalar;
  struct last_experts : fg::routing_rule {
    void choose(fg::batch const&, fg::matrix<double const> scores,
                fg::matrix<std::int32_t> experts) const override {
      for (std::int64_t t = 0; t < scores.rows; ++t)
        for (int k = 0; k < experts.cols; ++k)
          experts(t, k) = static_cast<std::int32_t>(scores.cols - 1 - k);
    }
  } const rule;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> one(4, 16), y(4, 16);

  // A plain layer with a router of bf16 beside one by a rule, with jitter.
  constexpr fg::config plain = [] {
    fg::config c = moe;
    c.precision = fg::precision::bf16;
    return c;
  }();
  constexpr fg::config ruled = [] {
    fg::config c = moe;
    c.selection = fg::selection::rule;
    c.jitter = true;
    return c;
  }();
  fg::network<decltype(fg::mixture<plain>{} | fg::mixture<ruled>{}), TestType> both;
  fg::network<fg::mixture<plain>, TestType> first;
  auto log = both.make_log();
  both.forward({.tokens = 4, .routing = {.jitter = 0.2, .rule = &rule}, .log = &log}, x, y);
  CHECK(log.layers[1].load == std::vector<std::int64_t>{0, 0, 0, 0, 4, 4});
  both.backward(x, one);
  auto const with = copy(both.gradient());
  CHECK(log.layers[0].load != log.layers[1].load);

  // The first layer's router had no jitter: its choice and its output are those without.
  std::copy_n(both.parameters().data(), first.parameters().size(), first.parameters().data());
  auto alone = first.make_log();
  first.forward({.tokens = 4, .log = &alone}, x, y);
  CHECK(alone.layers[0].load == log.layers[0].load);
  CHECK(alone.layers[0].entropy == log.layers[0].entropy);
  both.forward({.tokens = 4, .routing = {.rule = &rule}}, x, y);
  both.backward(x, one);
  CHECK(with != copy(both.gradient()));

  CHECK_THROWS_WITH(first.infer({.tokens = 4, .routing = {.rule = &rule}}, x, y),
                    "a routing rule is for configs with selection::rule: here is none");
  CHECK_THROWS_WITH(first.infer({.tokens = 4, .routing = {.jitter = 0.2}}, x, y),
                    "jitter needs a config that has it: .jitter = true");
}

TEMPLATE_TEST_CASE("a log of another network is refused; its own has a report a router", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  fg::routing_log none, other = fg::network<tiny::decoder, TestType>::make_log();
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .log = &none}, x, y),
                    "the routing log is not this network's: use make_log()");
  CHECK_THROWS_AS(net.infer({.tokens = 4, .log = &other}, x, y), fg::invalid_argument);
  CHECK_THROWS_AS(net.infer({.tokens = 4, .routing = {.earlier = &none}}, x, y),
                  fg::invalid_argument);
  auto log = net.make_log(), longer = log;
  longer.layers.push_back(longer.layers.back());
  CHECK_THROWS_AS(net.infer({.tokens = 4, .log = &longer}, x, y), fg::invalid_argument);
  fg::network<fg::linear<16, 16>, TestType> plain;
  CHECK_THROWS_AS(plain.infer({.tokens = 4, .log = &log}, x, y), fg::invalid_argument);
  CHECK(y.untouched());
  REQUIRE(log.layers.size() == 1);
  for (int twice = 0; twice < 2; ++twice) {
    net.infer({.tokens = 4, .log = &log}, x, y);
    std::int64_t total = 0;
    for (auto load : log.layers[0].load) total += load;
    CHECK(total == 4 * moe.top_k);
  }
}

TEMPLATE_TEST_CASE("a log with room for them has each token's experts and weights", "", EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr std::int64_t T = 7;
  fg::network<fg::mixture<moe>, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(T, 16, 1);
  numbers<S> y(T, 16);
  auto log = net.make_log(T);
  auto const& report = log.layers.at(0);
  auto const router = net.weight("router");
  for (int k : {2, 3, 1}) {
    net.infer({.tokens = T, .routing = {.top_k = k}, .log = &log}, x, y);
    auto const experts = report.choices();
    auto const weights = report.choice_weights();
    REQUIRE(experts.rows == T);
    REQUIRE(experts.cols == k);
    REQUIRE(weights.cols == k);
    for (std::int64_t t = 0; t < T; ++t) {
      std::vector<double> score(moe.routed);
      double sum = 0;
      for (int e = 0; e < moe.routed; ++e) {
        for (int d = 0; d < 16; ++d)
          score[std::size_t(e)] += double(router(e, d)) * double(fg::matrix<S const>(x)(t, d));
        sum += score[std::size_t(e)] = std::exp(score[std::size_t(e)]);
      }
      for (int slot = 0; slot < k; ++slot) {
        auto const best = std::max_element(score.begin(), score.end());
        CHECK(experts(t, slot) == best - score.begin());
        CHECK(weights(t, slot) == Approx(*best / sum).epsilon(1e-5));
        *best = 0;
      }
    }
  }
  // Two slots an expert: what is dropped is marked, and weighs nothing.
  net.infer({.tokens = 6, .routing = {.capacity = 0.5}, .log = &log}, x.first(6), y.first(6));
  std::vector<std::int64_t> dropped(moe.routed), load(moe.routed);
  auto const experts = report.choices();
  REQUIRE(experts.rows == 6);
  for (std::int64_t t = 0; t < 6; ++t)
    for (int slot = 0; slot < 2; ++slot) {
      auto const e = std::size_t(fg::expert_in(experts(t, slot)));
      ++load[e];
      dropped[e] += !fg::is_kept(experts(t, slot));
      CHECK((report.choice_weights()(t, slot) > 0) == fg::is_kept(experts(t, slot)));
    }
  CHECK(load == report.load);
  CHECK(dropped == report.dropped);
  CHECK(std::accumulate(dropped.begin(), dropped.end(), std::int64_t{0}) > 0);

  auto small = net.make_log(3);
  CHECK_THROWS_WITH(net.infer({.tokens = T, .log = &small}, x, y),
                    "the routing log has no room for the choices of 7 tokens");
  CHECK_THROWS_WITH(net.make_log(-1), "a batch has 0 to 2147483647 tokens, not -1");
  CHECK_THROWS_AS(net.make_log(INT64_MAX), fg::invalid_argument);
  CHECK(net.make_log().layers[0].choices().size() == 0);
}

TEMPLATE_TEST_CASE("more slots than 32 bits can number are refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<fg::mixture<moe>, TestType> net;
  auto const nowhere = [](int bit) { return reinterpret_cast<S*>(std::uintptr_t(1) << bit); };
  std::int64_t const tokens = 1LL << 30;  // refused before the memory that is not there is touched
  CHECK_THROWS_WITH(net.infer({.tokens = tokens}, fg::matrix<S const>(nowhere(45), tokens, 16),
                              fg::matrix<S>(nowhere(46), tokens, 16)),
                    "a batch of 1073741824 tokens with 2 experts each is too large");
}
