// Balance of loads that can be worked out by hand.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/own_router.hpp>
#include <finegrain/lab/routing.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {
fg::load_balance of(std::vector<double> const& load) {
  return fg::balance_of(std::span<double const>(load));
}
}  // namespace

TEST_CASE("Equal loads are balanced perfectly, one busy expert not at all") {
  auto const even = of({5, 5, 5, 5});
  CHECK(even.entropy == Approx(1));
  CHECK(even.max_over_mean == 1);
  CHECK(even.variation == 0);
  CHECK(even.idle == 0);
  auto const one = of({0, 8, 0, 0});
  CHECK(one.entropy == Approx(0).margin(1e-12));
  CHECK(one.max_over_mean == 4);
  CHECK(one.variation == Approx(std::sqrt(3.0)));
  CHECK(one.idle == 3);
  CHECK(of({4, 4, 0, 0}).entropy == Approx(0.5));
}

TEST_CASE("Where no token was routed there is no balance, and one expert alone has all of it") {
  for (std::vector<double> const& none : {std::vector<double>(4), {0}, {}}) {
    auto const b = of(none);
    CHECK(std::isnan(b.entropy));
    CHECK(std::isnan(b.max_over_mean));
    CHECK(std::isnan(b.variation));
    CHECK(b.idle == int(none.size()));
  }
  CHECK(of({7}).entropy == 1);
}

TEST_CASE("Balance does not depend on the order of experts or on the number of tokens") {
  auto const a = of({1, 2, 3, 4}), b = of({40, 10, 30, 20});
  CHECK(a.entropy == Approx(b.entropy));
  CHECK(a.variation == Approx(b.variation));
  CHECK(a.max_over_mean == Approx(b.max_over_mean));
}

TEST_CASE("Loads add up over batches, layer by layer") {
  fg::routing_log log;
  log.layers.assign(2, fg::routing_report(2));
  log.layers[0].load = {1, 3};
  log.layers[1].load = {4, 0};
  fg::load_count count;
  count.add(log);
  count.add(log);
  CHECK(count.layers() == std::vector<std::vector<double>>{{2, 6}, {8, 0}});
  auto const all = fg::balance_of(count.layers());
  CHECK(all.max_over_mean == 2);
  CHECK(all.idle == 1);
}

TEST_CASE("A router is called by its layer, as its weights are, or by its number") {
  constexpr fg::config moe{.hidden = 4, .width = 2, .routed = 3, .top_k = 1};
  using mixture = fg::mixture<moe>;
  using dense = fg::mlp<4, 2>;
  auto const names = []<fg::Expr E>(E) { return fg::router_names(fg::list_weights<E>()); };
  using all = std::vector<std::string>;
  CHECK(names(fg::repeat<1>(dense{}) | fg::repeat<2>(fg::residual(mixture{}))) ==
        all{"layer 1", "layer 2"});
  CHECK(names(mixture{} | dense{} | mixture{}) == all{"router 0", "router 1"});
  CHECK(names(mixture{} | fg::repeat<1>(mixture{} + mixture{})) ==
        all{"router 0", "layer 0", "router 2"});
  CHECK(names(fg::repeat<2>(fg::mixture<moe, fg::linear<4, 3>>{})) == all{"layer 0", "layer 1"});
  CHECK(names(dense{}).empty());
}
