// Gradients of every kind of router and of every loss, against central differences.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/describe.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/gradient_check.hpp>

#include "../catch.hpp"
#include "../family.hpp"

namespace {

namespace fg = finegrain;
using family::D;
constexpr std::int64_t T = 9;

/// The worst error of a layer of config C under a request, over some seeds.
template <fg::config C>
double worst(fg::routing_request const& request = {}, int seeds = 4) {
  family::tokens const some(T);
  double worst = 0;
  for (std::uint64_t seed = 0; seed < std::uint64_t(seeds); ++seed) {
    fg::network<fg::mixture<C>, fg::reference> net({.deviation = 0.6, .seed = seed});
    if constexpr (C.bias)
      for (int i = 0; i < C.routed; ++i)
        net.weight("bias")(0, i) = 0.1 * fg::random_normal(seed, std::uint64_t(i));
    std::vector<double> x(T * D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = fg::random_normal(seed + 50, i);
    auto const report = fg::check_gradients(net, some.batch(request, C.jitter), {x.data(), T, D},
                                            {.eps = 1e-5, .seed = seed});
    INFO(report.where << ": backward says " << report.gradient << ", differences say "
                      << report.difference);
    CHECK(report.worst < 2e-7);
    CHECK(report.partials > 10 * report.skipped);
    worst = std::max(worst, report.worst);
  }
  return worst;
}

TEST_CASE("gradients of every kind of router are those of differences") {
  fg::for_each(family::exact{}, []<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    CHECK(worst<C>() < 2e-7);
  });
}

TEST_CASE("gradients of every loss are those of differences, for both ways to make scores") {
  for (auto const& loss : family::losses()) {
    CAPTURE(loss.expert, loss.device, loss.communication, loss.sequence, loss.z, loss.importance);
    fg::routing_request const request{.balance = loss, .devices = 3};
    CHECK(worst<family::base>(request) < 2e-7);
    CHECK(worst<fg::profiles::deepseek_v3_hf(family::in_groups)>(request) < 2e-7);
    CHECK(worst<fg::profiles::gshard_top2(family::base)>(request) < 2e-7);
  }
}

TEST_CASE("gradients of the load loss are those of differences, and it is 0 at balance") {
  constexpr fg::config noisy = family::with(
      [](fg::config& c) { c.by_logits = c.renormalise = c.noisy = true, c.epsilon = 0; });
  CHECK(worst<noisy>({.balance = {.load = 0.5}}) < 2e-7);
  CHECK(worst<noisy>({.balance = {.expert = 0.1, .importance = 0.2, .load = 0.5}}) < 2e-7);
  constexpr fg::config two = family::with(
      [](fg::config& c) { c.by_logits = c.renormalise = c.noisy = true, c.routed = 3; });
  fg::network<fg::mixture<two>, fg::reference> net({.deviation = 0});
  auto log = net.make_log();
  std::vector<double> const x(T * D, 1);
  std::vector<double> y(T * D);
  fg::routing_request const request{.balance = {.load = 1}};
  net.forward({.tokens = T, .routing = request, .log = &log}, {x.data(), T, D}, {y.data(), T, D});
  CHECK(log.balance_loss() < 0.1);  // equal logits: what differs is the draw of noise
  CHECK(log.balance_loss() > 0);
  CHECK_THROWS_WITH(worst<family::base>(request), ContainsSubstring("averages over noise"));
  // what chooses otherwise than by logits and noise has other averages
  constexpr fg::config biased = family::with([](fg::config& c) { c.noisy = c.bias = true; });
  CHECK_THROWS_WITH(worst<biased>(request), ContainsSubstring("bias"));
  CHECK_THROWS_WITH(worst<noisy>({.mask_best = 1, .balance = {.load = 1}}),
                    ContainsSubstring("excluded experts"));
}

TEST_CASE("gradients of a learned mix of shared and routed experts are those of differences") {
  using mix = decltype(fg::blend(fg::shared_experts<family::base>{},
                                 fg::routed_experts<family::base>{} | fg::rmsnorm<D>{}));
  static_assert(fg::parameters(mix{}) == fg::parameters(fg::mixture<family::base>{}) + D + 2 * D);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    fg::network<mix, fg::reference> net({.deviation = 0.6, .seed = seed});
    std::vector<double> x(T * D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = fg::random_normal(seed, i);
    auto const report = fg::check_gradients(net, {.tokens = T}, {x.data(), T, D});
    CHECK(report.worst < 2e-7);
    CHECK(report.partials > 10 * report.skipped);
  }
}

TEST_CASE("gradients know what was dropped") {
  CHECK(worst<family::base>({.capacity = 0.7}) < 2e-7);
  CHECK(worst<family::base>({.capacity = 0.7, .drop = fg::drop::last}) < 2e-7);
  CHECK(worst<fg::profiles::deepseek_v3_hf(family::in_groups)>(
            {.devices = 3, .device_capacity = 0.6, .exempt = 0.5}) < 2e-7);
}

TEST_CASE("rounding lets gradients through") {
  // At x and weights that are whole numbers nothing is rounded but scores and weights: gradients
  // are nearly those of the router that does not round.
  constexpr auto rounds = fg::profiles::deepseek_v1_hf(family::base, true);
  constexpr auto not_rounds = fg::profiles::deepseek_v2_hf(family::base, true);
  family::tokens const some(T);
  std::vector<double> const x(T * D, 1), dy(T * D, 1);
  auto const gradient = [&]<fg::config C>(fg::at<C>) {
    fg::network<fg::mixture<C>, fg::reference> net({.deviation = 0.6});
    for (int e = 0; e < C.routed; ++e)
      for (int d = 0; d < D; ++d) net.weight("router")(e, d) = (e * 3 + d * 5) % 7 / 8.0;
    std::vector<double> y(T * D);
    net.forward(some.batch(), {x.data(), T, D}, {y.data(), T, D});
    net.backward({dy.data(), T, D});
    auto const all = net.gradient("router");
    return std::vector<double>(all.data, all.data + all.size());
  };
  auto const a = gradient(fg::at<rounds>{}), b = gradient(fg::at<not_rounds>{});
  double largest = 0;
  for (double n : b) largest = std::max(largest, std::abs(n));
  REQUIRE(largest > 0.01);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).margin(0.02 * largest));
}

}  // namespace
