// Laws of expr/cost.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/budget.hpp>
#include <finegrain/expr/cost.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

using first = fg::linear<8, 6>;
using second = fg::linear<6, 8>;
using heads = fg::attention<8, 2, 1, 6>;
constexpr fg::config moe{
    .hidden = 8, .width = 5, .routed = 7, .top_k = 3, .shared = 2, .bias = true};

struct block : fg::named {
  static constexpr auto expr = fg::residual(heads{}) | fg::residual(fg::mixture<moe>{});
};

}  // namespace

TEST_CASE("parameters are counted once each, whatever composes them") {
  CHECK(fg::parameters(first{}) == 48);
  CHECK(fg::parameters(first{} | second{}) == 96);
  CHECK(fg::parameters(first{} + first{}) == 96);
  CHECK(fg::parameters(fg::residual(first{} | second{})) == 96);
  CHECK(fg::parameters(fg::repeat<5>(first{} | second{})) == 480);
}

TEST_CASE("a name costs what it stands for") {
  CHECK(fg::parameters(block{}) == fg::parameters(block::expr));
  CHECK(fg::active_parameters(block{}) == fg::active_parameters(block::expr));
  CHECK(fg::flops(block{}, 9) == fg::flops(block::expr, 9));
  CHECK(fg::cache_width(block{}) == fg::cache_width(block::expr));
}

TEST_CASE("a token runs through K of R routed experts, all shared ones, and the whole router") {
  std::int64_t const expert = 3 * 8 * 5;
  CHECK(fg::parameters(fg::mixture<moe>{}) == 9 * expert + 7 * 8);
  CHECK(fg::active_parameters(fg::mixture<moe>{}) == 5 * expert + 7 * 8);
}

TEST_CASE("the selection bias is no parameter") {
  constexpr fg::config unbiased = [] {
    fg::config c = moe;
    c.bias = false;
    return c;
  }();
  CHECK(fg::parameters(fg::mixture<moe>{}) == fg::parameters(fg::mixture<unbiased>{}));
}

TEST_CASE("a product costs two operations for each token and active weight") {
  CHECK(fg::flops(first{}, 10) == 2 * 48 * 10);
  CHECK(fg::flops(fg::mixture<moe>{}, 10) == 20 * fg::active_parameters(fg::mixture<moe>{}));
  CHECK(fg::flops(fg::embedding<100, 8>{}, 10) == 0);
}

TEST_CASE("attention adds scores and their use over the lower triangle") {
  std::int64_t const projections = 2 * 10 * fg::parameters(heads{});
  std::int64_t const pairs = 10 * 11 / 2;
  CHECK(fg::flops(heads{}, 10) == projections + pairs * 2 * (2 * 6 + 2 * 6));
}

TEST_CASE("operations add up over any composition, and repeat multiplies them") {
  auto const all = fg::repeat<3>(block{}) | first{};
  CHECK(fg::flops(all, 10) ==
        3 * (fg::flops(heads{}, 10) + fg::flops(fg::mixture<moe>{}, 10)) + fg::flops(first{}, 10));
  CHECK(fg::flops(fg::repeat<2>(fg::repeat<3>(block{})), 4) == 6 * fg::flops(block{}, 4));
  CHECK(fg::flops(all, 0) == 0);
}

TEST_CASE("training costs three times the forward pass") {
  CHECK(fg::training_flops(block{}, 10) == 3 * fg::flops(block{}, 10));
}

TEST_CASE("generation keeps keys and values of every attention") {
  CHECK(fg::cache_width(heads{}) == 2 * 1 * 6);
  CHECK(fg::cache_width(fg::repeat<5>(block{}) | first{}) == 60);
  CHECK(fg::cache_width(first{}) == 0);
}

TEST_CASE("costs are constants of the compiler") {
  static_assert(fg::parameters(block{}) > 0 && fg::flops(block{}, 1) > 0);
  SUCCEED();
}

TEST_CASE("a sum of stages costs what both cost, whatever their widths") {
  using map = fg::linear<4, 3>;
  CHECK(fg::parameters(map{} + map{}) == 24);
  CHECK(fg::flops(map{} + map{}, 5) == 2 * fg::flops(map{}, 5));
  CHECK(fg::parameters((fg::embedding<11, 4>{} + fg::embedding<11, 4>{}) | map{}) == 100);
}

TEST_CASE("numbers in experts are a config's, and an mlp is an expert that every token takes") {
  std::int64_t const expert = 3 * 8 * 5;
  CHECK(fg::expert_parameters(fg::mixture<moe>{}) == fg::expert_parameters(moe));
  CHECK(fg::active_expert_parameters(fg::mixture<moe>{}) == fg::active_expert_parameters(moe));
  CHECK(fg::expert_parameters(fg::mlp<8, 10>{}) == 2 * expert);
  auto const stack = fg::embedding<9, 8>{} |
                     fg::repeat<1>(fg::residual(heads{} | fg::mlp<8, 15>{})) |
                     fg::repeat<2>(block{}) | fg::head<8, 9>{};
  CHECK(fg::expert_parameters(stack) == (3 + 2 * 9) * expert);
  CHECK(fg::active_expert_parameters(stack) == (3 + 2 * 5) * expert);
  CHECK(fg::expert_parameters(heads{}) == 0);
}

TEST_CASE("expressions have one budget where their experts have, whatever routes and attends") {
  constexpr fg::config finer{.hidden = 8, .width = 1, .routed = 35, .top_k = 15, .shared = 10};
  using dense = fg::mlp<8, 25>;  // what a token uses of moe
  static_assert(fg::same_budget(block{}, fg::mixture<moe>{}, fg::mixture<finer>{}));
  CHECK_FALSE(fg::same_budget(block{}, dense{}));
  CHECK(fg::active_expert_parameters(block{}) == fg::active_expert_parameters(dense{}));
  CHECK_FALSE(fg::same_budget(fg::repeat<2>(block{}), block{}));
}
