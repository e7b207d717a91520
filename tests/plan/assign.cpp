// Rules that look at a whole batch: expert choice, Sinkhorn, tables, chance, capacities.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/assign.hpp>
#include <finegrain/reference/mixture.hpp>
#include <numeric>
#include <set>

#include "../catch.hpp"
#include "../family.hpp"
#include "../reference/layer.hpp"

namespace {

using namespace under_test;

using family::base, family::D, family::with;

/// A router's decisions on T random tokens, and its report.
struct decisions {
  fg::buffer<> memory = poisoned(1 << 23);
  fg::arena arena{memory.data(), memory.size()};
  fg::routing<double> r;
  fg::routing_log log;

  decisions(fg::config const& c, std::int64_t T, fg::routing_request const& request,
            bool training = true, std::vector<std::int64_t> const& starts = {})
      : r(arena, {T, 1, training}, c), log{{fg::routing_report(c.routed)}} {
    numbers const x = random_numbers(T * D, 5), router = random_numbers(c.routed * D, 6);
    numbers const table = random_numbers(c.vocabulary * c.top_k, 7);
    std::vector<std::int32_t> ids(std::size_t(T), 0);
    std::iota(ids.begin(), ids.end(), 0);
    for (auto& id : ids) id %= std::max(1, c.vocabulary);
    numbers const bias(std::size_t(c.routed), 0.0);
    fg::router_weights<double const> w;
    w.router = view(router, c.routed, D);
    w.table = view(table, c.vocabulary, c.top_k);
    w.bias = view(bias, 1, c.routed);
    fg::router_scratch<double> const scratch(arena, {T, 1, training}, c);
    fg::batch const b{.tokens = T, .ids = ids, .starts = starts, .routing = request, .log = &log};
    fg::route_forward(on, c, b, view(x, T, D), w, r, scratch);
  }
  fg::routing_report const& report() const { return log.layers[0]; }
  std::int64_t kept(int expert) const {
    std::int64_t count = 0;
    for (std::int64_t t = 0; t < r.experts.rows; ++t)
      for (std::int64_t slot = 0; slot < r.experts.cols; ++slot)
        count += r.experts(t, slot) == expert;
    return count;
  }
};

TEST_CASE("expert choice fills every expert exactly, with its tokens of highest score") {
  constexpr auto c = with([](fg::config& c) { c.selection = fg::selection::expert_choice; });
  for (std::int64_t T : {1, 5, 6, 30, 31}) {
    decisions const d(c, T, {});
    std::int64_t const share = (T * 2 + 5) / 6;
    for (int e = 0; e < 6; ++e) {
      CHECK(d.report().load[std::size_t(e)] == share);
      double least = infinity, best_left = -infinity;
      for (std::int64_t t = 0; t < T; ++t) {
        bool taken = false;
        for (int slot = 0; slot < 6; ++slot) taken |= d.r.experts(t, slot) == e;
        double const s = d.r.scores(t, e);
        (taken ? least : best_left) = taken ? std::min(least, s) : std::max(best_left, s);
      }
      CHECK(least >= best_left);
    }
    for (std::int64_t t = 0; t < T; ++t)
      for (int slot = 1; slot < 6; ++slot)  // in order, unused slots last
        CHECK((d.r.experts(t, slot) == fg::no_expert ||
               d.r.experts(t, slot) > d.r.experts(t, slot - 1)));
  }
}

TEST_CASE("Sinkhorn sends tokens more evenly in training, and is a plain top-k elsewhere") {
  constexpr auto c = with([](fg::config& c) { c.selection = fg::selection::sinkhorn; });
  constexpr std::int64_t T = 600;
  auto const variance = [](decisions const& d) {
    double sum = 0;
    for (std::int64_t n : d.report().load) sum += double((n - 200) * (n - 200));
    return sum;
  };
  CHECK(variance(decisions(c, T, {})) < 0.7 * variance(decisions(base, T, {})));
  decisions const inference(c, T, {}, false), plain_inference(base, T, {}, false);
  CHECK(inference.report().load == plain_inference.report().load);
}

/// What Sinkhorn makes of logits (T, R) in f32.
std::vector<float> balanced(std::vector<float> const& logits, int R) {
  fg::config c = base;
  c.routed = R, c.selection = fg::selection::sinkhorn;
  fg::buffer<> memory = poisoned(1 << 20);
  fg::arena arena{memory.data(), memory.size()};
  fg::extent const e{static_cast<std::int64_t>(logits.size()) / R, 1, true};
  fg::routing<float> const r(arena, e, c);
  std::copy(logits.begin(), logits.end(), r.logits.data);
  auto const keys = fg::sinkhorn_keys(r, fg::assign_scratch<float>(arena, e, c));
  return {keys.data, keys.data + keys.size()};
}

TEST_CASE("Sinkhorn's keys are finite, and a token's are the same wherever its logits lie") {
  constexpr int T = 30, R = 6;
  std::vector<float> logits;
  for (int i = 0; i < T * R; ++i) logits.push_back(float(fg::random_word(1, i) % 64) / 8);
  auto const keys = balanced(logits, R);
  for (float const apart : {100.0f, -100.0f, 1e4f, -1e4f}) {
    std::vector<float> moved = logits;
    for (int i = 0; i < T * R; ++i) moved[i] += apart * float(i / R % 3 - 1);
    CHECK(balanced(moved, R) == keys);
  }
  for (float const times : {100.0f, 1e4f, 1e30f}) {
    std::vector<float> sharp = logits;
    for (float& logit : sharp) logit *= times;
    for (float const key : balanced(sharp, R)) REQUIRE((key >= 0 && key <= 1));
  }
}

TEST_CASE("to Sinkhorn a token whose logits are not finite is one of equal logits") {
  constexpr int T = 9, R = 6;
  std::vector<float> logits;
  for (int i = 0; i < T * R; ++i) logits.push_back(float(fg::random_normal(1, std::uint64_t(i))));
  std::fill_n(logits.begin() + 4 * R, R, 0.0f);
  auto const keys = balanced(logits, R);
  for (float const bad : {float(poison), float(infinity)}) {
    logits[4 * R + 2] = bad;
    CHECK(balanced(logits, R) == keys);
  }
  std::fill_n(logits.begin() + 4 * R, R, -float(infinity));
  CHECK(balanced(logits, R) == keys);
}

TEST_CASE("a table says distinct experts in range, whatever bits it holds") {
  fg::config c = base;
  c.top_k = 4;
  numbers table(4);
  std::uint64_t n = 0;
  for (int round = 0; round < 100'000; ++round) {
    for (double& entry : table) {
      std::uint64_t const bits = fg::random_word(1, n++);
      entry = round % 2 ? double(bits % 9) : __builtin_bit_cast(double, bits);
    }
    std::int32_t experts[4];
    fg::look_up<double>(c, 4, view(std::as_const(table), 1, 4), 0, experts);
    REQUIRE(std::set<int>(experts, experts + 4).size() == 4);
    REQUIRE(*std::min_element(experts, experts + 4) >= 0);
    REQUIRE(*std::max_element(experts, experts + 4) < 6);
  }
  numbers const given{5, 0, 3, 1};
  std::int32_t experts[4];
  fg::look_up<double>(c, 4, view(given, 1, 4), 0, experts);
  CHECK(std::vector<int>(experts, experts + 4) == std::vector<int>{5, 0, 3, 1});
}

TEST_CASE("a full expert keeps the slots of most weight, or the first ones") {
  constexpr std::int64_t T = 40, room = 10;  // ceil(0.75 * 80 / 6)
  decisions const all(base, T, {});
  for (auto how : {fg::drop::least_weight, fg::drop::last}) {
    decisions const d(base, T, {.capacity = 0.75, .drop = how});
    CHECK(d.report().load == all.report().load);
    bool full = false;
    for (int e = 0; e < 6; ++e) {
      auto const chose = all.report().load[std::size_t(e)];
      CHECK(d.kept(e) == std::min(chose, room));
      CHECK(d.report().dropped[std::size_t(e)] == chose - d.kept(e));
      full |= chose > room;
    }
    REQUIRE(full);
    for (std::int64_t t = 0; t < T; ++t)
      for (int slot = 0; slot < 2; ++slot) {
        CHECK(fg::expert_in(d.r.experts(t, slot)) == all.r.experts(t, slot));
        CHECK(d.r.weights(t, slot) ==
              (fg::is_kept(d.r.experts(t, slot)) ? all.r.weights(t, slot) : 0));
        for (std::int64_t other = 0; other < T; ++other)
          for (int at = 0; at < 2; ++at) {  // whoever is dropped ranks behind whoever is kept
            std::int32_t const mine = d.r.experts(t, slot), theirs = d.r.experts(other, at);
            if (!fg::is_kept(theirs) || mine != ~theirs) continue;
            if (how == fg::drop::least_weight)
              CHECK(all.r.weights(t, slot) <= all.r.weights(other, at));
            else
              CHECK(std::pair(slot, t) > std::pair(at, other));
          }
      }
  }
}

TEST_CASE("with room for all, nothing is dropped: capacity without bound is dropless") {
  decisions const all(base, 40, {});
  for (double capacity : {6.0, 1e30}) {
    decisions const d(base, 40, {.devices = 3, .capacity = capacity, .device_capacity = capacity});
    CHECK(d.report().dropped == std::vector<std::int64_t>(6, 0));
    for (std::int64_t t = 0; t < 40; ++t)
      for (int slot = 0; slot < 2; ++slot) {
        CHECK(d.r.experts(t, slot) == all.r.experts(t, slot));
        CHECK(d.r.weights(t, slot) == all.r.weights(t, slot));
      }
  }
}

TEST_CASE("a device's budget spares the tokens of exempt sequences") {
  std::vector<std::int64_t> const starts{0, 10, 20, 30, 40};
  fg::routing_request const none{.devices = 2, .device_capacity = 0.5};
  decisions const strict(base, 40, none, true, starts);
  for (int device = 0; device < 2; ++device) {
    std::int64_t kept = 0;
    for (int e = 3 * device; e < 3 * device + 3; ++e) kept += strict.kept(e);
    CHECK(kept == 20);  // of 80 slots, half of a device's 40
  }
  fg::routing_request all = none;
  all.exempt = 1;
  CHECK(decisions(base, 40, all, true, starts).report().dropped == std::vector<std::int64_t>(6, 0));
  fg::routing_request some = none;
  some.exempt = 0.5;
  some.seed = 8;
  decisions const d(base, 40, some, true, starts);
  int spared = 0;
  for (std::size_t s = 0; s < 4; ++s) {
    bool whole = true;
    for (std::int64_t t = starts[s]; t < starts[s + 1]; ++t)
      for (int slot = 0; slot < 2; ++slot) whole &= fg::is_kept(d.r.experts(t, slot));
    spared += whole;
  }
  CHECK((spared >= 1 && spared < 4));
}

TEST_CASE("a second expert is used with probability twice its weight, in training alone") {
  constexpr auto c = with([](fg::config& c) { c.renormalise = c.chance_second = true; });
  constexpr std::int64_t T = 10'000;
  decisions const d(c, T, {.seed = 4}), again(c, T, {.seed = 4}), other(c, T, {.seed = 5});
  decisions const all(c, T, {}, false);
  double expected = 0, used = 0, same = 0;
  for (std::int64_t t = 0; t < T; ++t) {
    expected += std::min(1.0, 2 * all.r.weights(t, 1));
    used += fg::is_kept(d.r.experts(t, 1));
    same += fg::is_kept(d.r.experts(t, 1)) == fg::is_kept(other.r.experts(t, 1));
    CHECK(fg::is_kept(d.r.experts(t, 0)));
    CHECK(fg::is_kept(all.r.experts(t, 1)));
    CHECK(d.r.experts(t, 1) == again.r.experts(t, 1));
    CHECK(d.r.weights(t, 0) == all.r.weights(t, 0));
  }
  CHECK(used == Approx(expected).epsilon(0.03));
  CHECK(same < T);
}

struct always_third : fg::routing_rule {
  std::int32_t first = 3, second = fg::no_expert;
  void choose(fg::batch const&, fg::matrix<double const> scores,
              fg::matrix<std::int32_t> experts) const override {
    for (std::int64_t t = 0; t < scores.rows; ++t) experts(t, 0) = first, experts(t, 1) = second;
  }
};

TEST_CASE("a rule of one's own chooses, leaves slots unused, and is refused what is not there") {
  constexpr auto c = with([](fg::config& c) { c.selection = fg::selection::rule; });
  always_third rule;
  decisions const d(c, 10, {.rule = &rule});
  CHECK(d.report().load == std::vector<std::int64_t>{0, 0, 0, 10, 0, 0});
  for (std::int64_t t = 0; t < 10; ++t) {
    CHECK(d.r.weights(t, 0) == d.r.scores(t, 3));
    CHECK(d.r.weights(t, 1) == 0);
  }
  rule.second = 3;
  CHECK_THROWS_WITH(decisions(c, 10, {.rule = &rule}), ContainsSubstring("to expert 3 twice"));
  rule.second = 6;
  CHECK_THROWS_WITH(decisions(c, 10, {.rule = &rule}), ContainsSubstring("expert 6"));
  CHECK_THROWS_WITH(decisions(c, 10, {}), ContainsSubstring("needs a rule"));
}

TEST_CASE("what a router cannot be asked is refused in a sentence") {
  constexpr auto c = with([](fg::config& c) { c.selection = fg::selection::expert_choice; });
  CHECK_THROWS_WITH(decisions(c, 10, {.capacity = 1}), ContainsSubstring("no capacity to set"));
  CHECK_THROWS_WITH(decisions(c, 10, {.mask_best = 1}), ContainsSubstring("tokens choose"));
  CHECK_THROWS_WITH(decisions(base, 10, {.devices = 4}), ContainsSubstring("equal parts"));
  CHECK_THROWS_WITH(decisions(base, 10, {.capacity = -1}), ContainsSubstring("capacity factor"));
  CHECK_THROWS_WITH(decisions(base, 10, {.exempt = 2}), ContainsSubstring("exempt"));
  CHECK_THROWS_WITH(decisions(base, 10, {.balance = {.z = -1}}), ContainsSubstring("coefficient"));
}

}  // namespace
