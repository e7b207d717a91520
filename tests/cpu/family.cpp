// Every kind of router on the cpu: values and gradients are the specification's.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/mixture.hpp>
#include <finegrain/expr/describe.hpp>
#include <finegrain/reference/mixture.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using family::D;

TEST_CASE("every kind of router agrees with the specification, values and gradients") {
  family::tokens const some(21);
  numbers const x = random_numbers(21 * D, 2), dy = random_numbers(21 * D, 3);
  fg::for_each(family::exact{}, [&]<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    CHECK(distance<fg::mixture<C>>(x, dy, some.batch({}, C.jitter)) < 5e-5);
  });
}

TEST_CASE("rounded routers agree where products are exact") {
  family::tokens const some(21);
  numbers x(21 * D), dy = random_numbers(21 * D, 3);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(int(fg::random_word(1, i) % 9) - 4) / 4;
  fg::for_each(family::rounded{}, [&]<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    CHECK(distance<fg::mixture<C>>(x, dy, some.batch()) < 5e-3);
  });
}

TEST_CASE("every loss and every way to drop agrees, for both ways to make scores") {
  family::tokens const some(21);
  numbers const x = random_numbers(21 * D, 2), dy = random_numbers(21 * D, 3);
  std::vector<fg::routing_request> requests;
  for (auto const& loss : family::losses()) requests.push_back({.balance = loss, .devices = 3});
  requests.push_back({.capacity = 0.7});
  requests.push_back({.capacity = 0.7, .drop = fg::drop::last});
  requests.push_back(
      {.balance = {.importance = 0.5}, .devices = 3, .device_capacity = 0.6, .exempt = 0.5});
  constexpr auto softmax = family::base;
  constexpr auto sigmoid = fg::profiles::deepseek_v3_hf(family::in_groups);
  for (auto const& request : requests) {
    CAPTURE(request.balance.expert, request.balance.device, request.balance.communication,
            request.balance.sequence, request.balance.z, request.balance.importance,
            request.capacity, request.device_capacity);
    CHECK(distance<fg::mixture<softmax>>(x, dy, some.batch(request)) < 5e-5);
    CHECK(distance<fg::mixture<sigmoid>>(x, dy, some.batch(request)) < 5e-5);
  }
}

TEST_CASE("the load loss agrees") {
  constexpr fg::config noisy = family::with(
      [](fg::config& c) { c.by_logits = c.renormalise = c.noisy = true, c.epsilon = 0; });
  family::tokens const some(21);
  numbers const x = random_numbers(21 * D, 2), dy = random_numbers(21 * D, 3);
  CHECK(distance<fg::mixture<noisy>>(x, dy, some.batch({.balance = {.load = 0.5}})) < 5e-5);
}

TEST_CASE("a learned mix agrees, and one of equal parts is half the sum") {
  using mix =
      decltype(fg::blend(fg::shared_experts<family::base>{}, fg::routed_experts<family::base>{}));
  numbers const x = random_numbers(21 * D, 2), dy = random_numbers(21 * D, 3);
  CHECK(distance<mix>(x, dy) < 5e-5);
  layer<mix> even;
  layer<fg::mixture<family::base>> sum;
  for (float* n = even.weights().mix.data; n < even.weights().mix.data + 2 * D; ++n) *n = 0;
  std::copy_n(even.w.begin() + 64, sum.w.size(), sum.w.begin());
  even.forward(x);
  sum.forward(x);
  for (float& n : even.y) n *= 2;
  CHECK(difference({sum.y.begin(), sum.y.end()}, even.y) < 1e-6);
}

TEST_CASE("dropping changes nothing for tokens that lose no slot, and only takes from the others") {
  family::tokens const some(60);
  numbers const x = random_numbers(60 * D, 2);
  layer<fg::mixture<family::base>> all, dropping;
  fg::routing_log log{{fg::routing_report(family::base.routed)}};
  all.forward(x, some.batch());
  for (fg::routing_request const& request :
       {fg::routing_request{.capacity = 0.8}, {.devices = 3, .device_capacity = 0.8}}) {
    fg::batch b = some.batch(request);
    b.log = &log;
    dropping.forward(x, b);
    std::int64_t dropped = 0, changed = 0;
    for (std::int64_t n : log.layers[0].dropped) dropped += n;
    for (std::int64_t t = 0; t < 60; ++t)
      changed += !same(rows(all.y, D, t, 1), rows(dropping.y, D, t, 1));
    CHECK(dropped > 0);
    CHECK(changed > 0);
    CHECK(changed <= dropped);
  }
}

TEST_CASE("routers that mathematics says are one choose and weigh with the same bits") {
  family::tokens const some(60);
  numbers const x = random_numbers(60 * D, 2);
  constexpr auto grouped = family::with([](fg::config& c) {
    c.score = fg::score::sigmoid, c.bias = true, c.routed = 8, c.top_k = 4, c.groups = 4;
    c.group_limit = 2, c.scale = 2.5f;
  });
  layer<fg::mixture<fg::profiles::megatron(grouped)>> megatron;
  layer<fg::mixture<fg::profiles::deepseek_v3_hf(grouped)>> deepseek;
  CHECK(same(megatron.forward(x), deepseek.forward(x)));

  constexpr auto before = family::with([](fg::config& c) { c.renormalise = true, c.epsilon = 0; });
  layer<fg::mixture<before>> softmax_first;
  layer<fg::mixture<fg::profiles::megatron(family::base)>> softmax_last;
  CHECK(same(softmax_first.forward(x), softmax_last.forward(x)));

  constexpr auto one_group = family::with([](fg::config& c) { c.groups = c.group_limit = 3; });
  layer<fg::mixture<one_group>> all_groups;
  layer<fg::mixture<family::base>> none;
  CHECK(same(all_groups.forward(x), none.forward(x)));
}

/// The routers' reports on both executors.
template <fg::config C>
void check_reports(fg::batch b, numbers const& x) {
  layer<fg::mixture<C>> fast;
  exact_layer<fg::mixture<C>> exact;
  fg::routing_log got{{fg::routing_report(C.routed)}}, expected = got;
  b.log = &got;
  fast.forward(x, b, true);
  b.log = &expected;
  exact.forward(x, b, true);
  fg::routing_report const &g = got.layers[0], &e = expected.layers[0];
  CHECK(g.load == e.load);
  CHECK(g.dropped == e.dropped);
  CHECK(g.tokens == e.tokens);
  CHECK(g.devices == Approx(e.devices));
  CHECK(g.entropy == Approx(e.entropy).epsilon(1e-4));
  CHECK(g.balance_loss == Approx(e.balance_loss).epsilon(1e-4));
  for (std::size_t i = 0; i < g.load.size(); ++i) {
    CHECK(g.mean_score[i] == Approx(e.mean_score[i]).epsilon(1e-4));
    CHECK(g.quantile[i] == Approx(e.quantile[i]).margin(1e-5));
  }
}

TEST_CASE("reports agree") {
  family::tokens const some(21);
  numbers const x = random_numbers(21 * D, 2);
  fg::routing_request const all{
      .balance = {.expert = 1, .device = 2, .sequence = 3, .z = 0.1, .importance = 1},
      .devices = 3,
      .capacity = 0.8,
      .quantiles = true};
  check_reports<family::base>(some.batch(all), x);
  check_reports<fg::profiles::deepseek_v3_hf(family::in_groups)>(some.batch(all), x);
  check_reports<fg::profiles::deepseek_v4(family::base)>(some.batch(all), x);
}

TEST_CASE("a router has the same bits for any number of threads") {
  family::tokens const some(70);
  numbers const x = random_numbers(70 * D, 2), dy = random_numbers(70 * D, 3);
  fg::routing_request const request{
      .balance = {.expert = 1, .z = 0.1, .importance = 1}, .devices = 3, .device_capacity = 0.9};
  fg::for_each(family::exact{}, [&]<fg::config C>(fg::at<C>) {
    fg::routing_request asked = request;
    if constexpr (C.uniform) asked.balance = {};
    if constexpr (C.selection == fg::selection::expert_choice) asked.device_capacity = 0;
    fg::thread_pool one(1), three(3);
    layer<fg::mixture<C>> a{fg::cpu(one)}, b{fg::cpu(three)};
    a.train(x, dy, some.batch(asked, C.jitter));
    b.train(x, dy, some.batch(asked, C.jitter));
    CHECK(same(a.y, b.y));
    CHECK(same(a.dx, b.dx));
    CHECK(same(a.all_gradients(), b.all_gradients()));
  });
}

}  // namespace
