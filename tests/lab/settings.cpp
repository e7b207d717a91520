// Settings as text.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/settings.hpp>
#include <set>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("Requests that ask for something else have another text") {
  std::vector<fg::routing_request> const all = {
      {}, {.top_k = 1}, {.mask_best = 1}, {.shared = false}, {.top_k = 1, .mask_best = 1}};
  for (std::size_t i = 0; i < all.size(); ++i)
    for (std::size_t j = 0; j < all.size(); ++j)
      CHECK((fg::request_text(all[i]) == fg::request_text(all[j])) == (i == j));
}

TEST_CASE("Settings' text has what decides bits, and not where or how often") {
  fg::study_settings a, b;
  b.out = "elsewhere", b.pool = "pool", b.seeds = 9;
  CHECK(fg::settings_text(a, a.training) == fg::settings_text(b, b.training));
  std::set<std::string> texts{fg::settings_text(a, a.training)};
  std::size_t expected = 1;
  auto const with = [&](auto change) {
    fg::training t;
    change(t);
    texts.insert(fg::settings_text(a, t));
    CHECK(texts.size() == ++expected);
  };
  struct tutor : fg::balance_rule {
    std::string holds;
    explicit tutor(std::string words) : holds(std::move(words)) {}
    std::string settings() const override { return holds; }
    void factors(std::span<double const>, std::span<double>) const override {}
  };
  struct other : tutor {
    using tutor::tutor;
  };
  struct : fg::routing_rule {
    void choose(fg::batch const&, fg::matrix<double const>,
                fg::matrix<std::int32_t>) const override {}
  } const chooser{};
  tutor const mild("0.1"), strict("0.2"), silent("");
  other const named_otherwise("0.1");
  with([](auto& t) { t.clip = 2; });
  with([](auto& t) { t.rounding = fg::weight_rounding::stochastic; });
  with([](auto& t) { t.loss_scale = 2; });
  with([](auto& t) { t.groups = {{"*.router", 0}}; });
  with([](auto& t) { t.groups = {{"*.router", 0, 0}}; });
  with([](auto& t) { t.groups = {{"*.experts.*", 0}}; });
  with([](auto& t) { t.routing.balance.expert = 1; });
  with([](auto& t) { t.routing.balance.device = 1; });
  with([](auto& t) { t.routing.balance.communication = 1; });
  with([](auto& t) { t.routing.balance.sequence = 1; });
  with([](auto& t) { t.routing.balance.z = 1; });
  with([](auto& t) { t.routing.balance.importance = 1; });
  with([](auto& t) { t.routing.balance.load = 1; });
  with([](auto& t) { t.routing.balance.over = fg::window::sequence; });
  with([&](auto& t) { t.routing.balance.rule = &mild; });
  with([&](auto& t) { t.routing.balance.rule = &strict; });
  with([&](auto& t) { t.routing.balance.rule = &named_otherwise; });
  with([](auto& t) { t.routing.devices = 2; });
  with([](auto& t) { t.routing.capacity = 1; });
  with([](auto& t) { t.routing.drop = fg::drop::last; });
  with([](auto& t) { t.routing.device_capacity = 1; });
  with([](auto& t) { t.routing.exempt = 0.5; });
  with([](auto& t) { t.routing.jitter = 0.5; });
  with([](auto& t) { t.routing.seed = 1; });
  with([](auto& t) { t.routing.seed = std::uint64_t{1} << 63; });
  with([](auto& t) { t.routing.seed = (std::uint64_t{1} << 63) + 1; });  // no double is this one
  with([](auto& t) { t.bias.speed = 1; });
  with([](auto& t) { t.bias.centre = true; });
  with([](auto& t) { t.bias.quantile = true; });
  struct plan : fg::training_rule {
    std::string settings() const override { return "a plan"; }
    void set(std::int64_t, fg::adamw&, fg::training&) const override {}
  } const planned{};
  with([&](auto& t) { t.rule = &planned; });
  struct mover : fg::update_rule {
    std::string settings() const override { return "a mover"; }
    bool move(fg::weight_update<float> const&) const override { return false; }
    bool move(fg::weight_update<double> const&) const override { return false; }
  } const moving{};
  with([&](auto& t) { t.update = &moving; });

  tutor const again("0.1");  // what a rule holds tells runs apart, not where it stands
  fg::training t;
  t.routing.balance.rule = &again;
  CHECK(texts.count(fg::settings_text(a, t)) == 1);
  t.routing.balance.rule = &silent;
  CHECK_THROWS_WITH(
      fg::settings_text(a, t),
      ContainsSubstring("your own balance rule must say in settings() what it holds"));
  CHECK_THROWS_WITH(
      fg::request_text({.rule = &chooser}),
      ContainsSubstring("your own routing rule must say in settings() what it holds"));
}
