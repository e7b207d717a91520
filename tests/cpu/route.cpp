// The router on the cpu: the same choices as the specification's, ties and NaN included.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/route.hpp>
#include <finegrain/reference/route.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

/// The choice for given keys, by this router and by the specification's.
void check_choice(fg::config const& c, fg::routing_request const& request, numbers const& scores,
                  numbers const& bias) {
  auto const R = static_cast<std::size_t>(c.routed),
             k = static_cast<std::size_t>(chosen(c, request));
  std::vector<std::int32_t> got(k, -1), expected(k, -1);
  std::vector<std::int64_t> ranks(2 * R);
  numbers keys(R);
  fg::simd::choose(c, request, scores.data(), c.bias ? bias.data() : nullptr, keys.data(),
                   ranks.data(), got.data());
  fg::buffer<> memory(1 << 16);
  fg::arena arena(memory.data(), memory.size());
  fg::router_scratch<float> const scratch(arena, {}, c);
  fg::spec::choose(c, request, scores.data(), bias.data(), scratch, expected.data());
  CHECK(got == expected);
}

TEST_CASE("the choice is the specification's for any keys: ties, NaN, infinities, both zeros") {
  std::vector<fg::config> const configs{
      {.hidden = 1, .width = 1, .routed = 12, .top_k = 3, .bias = true},
      {.hidden = 1, .width = 1, .routed = 12, .top_k = 12},
      {.hidden = 1,
       .width = 1,
       .routed = 12,
       .top_k = 3,
       .groups = 4,
       .group_limit = 2,
       .bias = true},
      {.hidden = 1,
       .width = 1,
       .routed = 12,
       .top_k = 4,
       .groups = 3,
       .group_limit = 2,
       .group_score = fg::group_score::top2_sum,
       .bias = true}};
  float const few[] = {0.0f, -0.0f, 0.5f, 0.5f, 1.0f, poison, -infinity, infinity, 0.25f, -0.25f};
  for (std::uint64_t n = 0; n < 3000; ++n) {
    numbers scores(12), bias(12);
    for (std::size_t i = 0; i < 12; ++i) {
      scores[i] = few[fg::random_word(n, i) % (n % 3 == 0 ? 5 : 10)];
      bias[i] = few[fg::random_word(n, 100 + i) % 5];
    }
    for (auto const& c : configs)
      for (int masked = 0; masked + c.top_k <= c.routed / c.groups * c.group_limit && masked < 3;
           ++masked)
        check_choice(c, {.top_k = c.top_k > 1 && n % 2 ? c.top_k - 1 : 0, .mask_best = masked},
                     scores, bias);
  }
}

TEST_CASE(
    "a report counts tokens, averages scores, and has the balance loss of the specification") {
  constexpr fg::config c{
      .hidden = 6, .width = 2, .routed = 5, .top_k = 2, .score = fg::score::sigmoid};
  numbers const x = random_numbers(40 * 6, 1), w = random_numbers(5 * 6, 2);
  std::vector<double> const wide(x.begin(), x.end()), wide_w(w.begin(), w.end());
  fg::batch const b{.tokens = 40, .routing = {.balance = {.expert = 0.5}}};
  fg::extent const e{40, fg::cpu().threads.workers(), true};
  fg::buffer<> memory(1 << 18);
  fg::arena arena(memory.data(), memory.size());
  fg::routing_log got{{fg::routing_report(5)}}, expected = got;
  auto const logs = [&b](fg::routing_log& log) {
    fg::batch with = b;
    with.log = &log;
    return with;
  };

  fg::routing<float> const r(arena, e, c);
  fg::route_scratch const t(arena, e, c);
  fg::router_weights<float const> rw;
  rw.router = view(w, 5, 6);
  route_forward(fg::cpu(), c, logs(got), view(x, 40, 6), nullptr, rw, r, t);

  fg::basic_reference<double> const on;
  fg::routing<double> const exact(arena, e, c);
  fg::router_scratch<double> const scratch(arena, e, c);
  fg::router_weights<double const> wide_router;
  wide_router.router = view(wide_w, 5, 6);
  route_forward(on, c, logs(expected), view(wide, 40, 6), wide_router, exact, scratch);
  CHECK(got.next == 1);
  CHECK(got.layers[0].load == expected.layers[0].load);
  CHECK(got.layers[0].balance_loss == Approx(expected.layers[0].balance_loss).epsilon(1e-5));
  for (std::size_t i = 0; i < 5; ++i)
    CHECK(got.layers[0].mean_score[i] == Approx(expected.layers[0].mean_score[i]).epsilon(1e-5));
  CHECK_THROWS_AS(report_routing(c, b, r, rw, t.balance, got), fg::invalid_argument);
}

/// Whether the experts are as many as asked, distinct, and in range.
bool sound(fg::config const& c, std::int32_t const* experts, int k) {
  std::uint64_t seen = 0;
  for (int slot = 0; slot < k; ++slot) {
    if (experts[slot] < 0 || experts[slot] >= c.routed) return false;
    seen |= std::uint64_t{1} << experts[slot];
  }
  return __builtin_popcountll(seen) == k;
}

TEST_CASE("experts are distinct and in range for any bits at all: ten million tokens") {
  fg::config plain{.hidden = 1, .width = 1, .routed = 21, .top_k = 6, .bias = true};
  fg::config groups{.hidden = 1,
                    .width = 1,
                    .routed = 24,
                    .top_k = 6,
                    .groups = 8,
                    .group_limit = 4,
                    .group_score = fg::group_score::top2_sum,
                    .bias = true};
  numbers scores(24), bias(24), keys(24);
  std::vector<std::int64_t> ranks(48);
  std::int32_t experts[8];
  std::int64_t wrong = 0;
  std::uint64_t word = 1;
  for (int n = 0; n < 10'000'000; ++n) {
    if (n % 1000 == 0)
      for (float& b : bias) {
        word = word * 6364136223846793005u + 1442695040888963407u;
        b = __builtin_bit_cast(float, static_cast<std::uint32_t>(word >> 32));
      }
    for (std::size_t i = 0; i < 24; i += 2) {
      word = word * 6364136223846793005u + 1442695040888963407u;
      std::uint64_t const bits = word ^ word >> 29;
      scores[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(bits));
      scores[i + 1] = __builtin_bit_cast(float, static_cast<std::uint32_t>(bits >> 32));
    }
    auto const& c = n % 2 ? groups : plain;
    fg::simd::choose(c, {}, scores.data(), n % 4 < 2 ? bias.data() : nullptr, keys.data(),
                     ranks.data(), experts);
    wrong += !sound(c, experts, c.top_k);
  }
  CHECK(wrong == 0);
}

}  // namespace
