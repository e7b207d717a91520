// Laws of expr/layers.hpp: each stage's widths and weights.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/cost.hpp>
#include <finegrain/plan/weights.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

/// "name rows x cols", in order.
template <fg::Expr E>
std::vector<std::string> shapes(E) {
  std::vector<std::string> all;
  for (auto const& w : fg::list_weights<E>())
    all.push_back(w.name + " " + std::to_string(w.rows) + " x " + std::to_string(w.cols));
  return all;
}
using list = std::vector<std::string>;

constexpr fg::config routed_only{.hidden = 8, .width = 5, .routed = 2, .top_k = 1};
constexpr fg::config full{.hidden = 8,
                          .width = 5,
                          .routed = 2,
                          .top_k = 1,
                          .shared = 3,
                          .bias = true,
                          .shared_gate = true};

}  // namespace

TEST_CASE("weights are out x in, as published checkpoints store them") {
  CHECK(shapes(fg::linear<8, 4>{}) == list{"weight 4 x 8"});
  CHECK(shapes(fg::head<8, 100>{}) == list{"weight 100 x 8"});
  CHECK(shapes(fg::embedding<100, 8>{}) == list{"table 100 x 8"});
  CHECK(shapes(fg::rmsnorm<8>{}) == list{"gain 1 x 8"});
  CHECK(shapes(fg::mlp<8, 20>{}) == list{"gate 20 x 8", "up 20 x 8", "down 8 x 20"});
}

TEST_CASE("an embedding takes token ids") {
  CHECK(fg::in_width<fg::embedding<100, 8>>() == fg::ids);
  CHECK(fg::out_width<fg::embedding<100, 8>>() == 8);
  CHECK(fg::out_width<fg::head<8, 100>>() == 100);
}

TEST_CASE("attention's heads share key and value heads, and may be of any even size") {
  CHECK(shapes(fg::attention<16, 4>{}) ==
        list{"query 16 x 16", "key 16 x 16", "value 16 x 16", "output 16 x 16"});
  CHECK(shapes(fg::attention<16, 4, 2>{}) ==
        list{"query 16 x 16", "key 8 x 16", "value 8 x 16", "output 16 x 16"});
  CHECK(shapes(fg::attention<16, 4, 1, 6>{}) ==
        list{"query 24 x 16", "key 6 x 16", "value 6 x 16", "output 16 x 24"});
}

TEST_CASE("attention's biases and norms are weights behind the others") {
  list const plain{"query 24 x 16", "key 12 x 16", "value 12 x 16", "output 16 x 24"};
  auto const more = [&](list const& names) {
    list all = plain;
    all.insert(all.end(), names.begin(), names.end());
    return all;
  };
  constexpr fg::attention_form turned{.theta = 1e6}, biased{.bias = true},
      each{.norm = fg::head_norm::each}, whole{.norm = fg::head_norm::all};
  CHECK(shapes(fg::attention<16, 4, 2, 6, turned>{}) == plain);
  CHECK(shapes(fg::attention<16, 4, 2, 6, biased>{}) ==
        more({"query_bias 1 x 24", "key_bias 1 x 12", "value_bias 1 x 12"}));
  CHECK(shapes(fg::attention<16, 4, 2, 6, each>{}) == more({"query_norm 1 x 6", "key_norm 1 x 6"}));
  CHECK(shapes(fg::attention<16, 4, 2, 6, whole>{}) ==
        more({"query_norm 1 x 24", "key_norm 1 x 12"}));
  CHECK(fg::parameters(fg::attention<16, 4, 2, 6, biased>{}) ==
        fg::parameters(fg::attention<16, 4, 2, 6>{}) + 48);
  // of a head's gains, one number is in a product for each head: 4 + 2 of 6
  CHECK(fg::flops(fg::attention<16, 4, 2, 6, each>{}, 5) ==
        fg::flops(fg::attention<16, 4, 2, 6>{}, 5) + 5 * 2 * 6 * (4 + 2));
  CHECK(fg::flops(fg::attention<16, 4, 2, 6, whole>{}, 5) ==
        fg::flops(fg::attention<16, 4, 2, 6, each>{}, 5));
}

TEST_CASE("shared experts are stored as one block of width S F") {
  CHECK(shapes(fg::shared_experts<full>{}) ==
        list{"shared.gate 15 x 8", "shared.up 15 x 8", "shared.down 8 x 15", "shared_gate 1 x 8"});
}

TEST_CASE("routed experts come with their router, and a bias only if the config has one") {
  list const experts{"router 2 x 8",        "experts.0.gate 5 x 8", "experts.1.gate 5 x 8",
                     "experts.0.up 5 x 8",  "experts.1.up 5 x 8",   "experts.0.down 8 x 5",
                     "experts.1.down 8 x 5"};
  CHECK(shapes(fg::routed_experts<routed_only>{}) == experts);
  list with_bias = experts;
  with_bias.insert(with_bias.begin() + 1, "bias 1 x 2");
  CHECK(shapes(fg::routed_experts<full>{}) == with_bias);
}

TEST_CASE("a mixture is shared plus routed experts, without the parts' names in the path") {
  list all = shapes(fg::shared_experts<full>{});
  for (auto const& w : shapes(fg::routed_experts<full>{})) all.push_back(w);
  CHECK(shapes(fg::mixture<full>{}) == all);
  CHECK(shapes(fg::mixture<routed_only>{}) == shapes(fg::routed_experts<routed_only>{}));
}

TEST_CASE("projections decay, gains do not, the selection bias has no gradient") {
  for (auto const& w : fg::list_weights<fg::mixture<full>>())
    CHECK(w.role == (w.name == "bias" ? fg::role::selection_bias : fg::role::projection));
  CHECK(fg::list_weights<fg::rmsnorm<8>>()[0].role == fg::role::gain);
  for (auto const& w : fg::list_weights<fg::attention<
           16, 4, 2, 6, fg::attention_form{.bias = true, .norm = fg::head_norm::each}>>())
    CHECK(w.role == (w.name.find("_bias") != w.name.npos   ? fg::role::bias
                     : w.name.find("_norm") != w.name.npos ? fg::role::gain
                                                           : fg::role::projection));
}
