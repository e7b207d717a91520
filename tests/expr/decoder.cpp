// Laws of expr/decoder.hpp. Totals of every preset are in static/paper_parameters.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <finegrain/config/presets.hpp>
#include <finegrain/expr/cost.hpp>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/plan/weights.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;
namespace presets = fg::presets;

namespace {

constexpr fg::architecture mixed{
    .hidden = 8,
    .layers = 3,
    .vocabulary = 50,
    .heads = 2,
    .kv_heads = 1,
    .head_dim = 4,
    .dense_layers = 1,
    .dense_width = 20,
    .moe = {.hidden = 8, .width = 5, .routed = 2, .top_k = 1, .shared = 1},
};
constexpr fg::architecture all_mixtures = [] {
  fg::architecture a = mixed;
  a.dense_layers = a.dense_width = 0;
  return a;
}();
constexpr fg::architecture all_dense = [] {
  fg::architecture a = mixed;
  a.dense_layers = a.layers;
  a.moe = {};
  return a;
}();

template <fg::architecture A>
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (auto const& w : fg::list_weights<fg::decoder<A>>()) all.push_back(w.name);
  return all;
}
bool has(std::vector<std::string> const& names, std::string const& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

TEST_CASE("a decoder turns token ids into logits") {
  CHECK(fg::in_width<fg::decoder<mixed>>() == fg::ids);
  CHECK(fg::out_width<fg::decoder<mixed>>() == 50);
}

TEST_CASE("layers are numbered through, dense ones first") {
  auto const weights = names<mixed>();
  CHECK(weights.front() == "embedding.table");
  CHECK(weights.back() == "head.weight");
  CHECK(has(weights, "layers.0.mlp.gate"));
  CHECK_FALSE(has(weights, "layers.0.mixture.router"));
  for (std::string const layer : {"layers.1.", "layers.2."}) {
    CHECK(has(weights, layer + "rmsnorm.gain"));
    CHECK(has(weights, layer + "attention.query"));
    CHECK(has(weights, layer + "rmsnorm_2.gain"));
    CHECK(has(weights, layer + "mixture.router"));
    CHECK(has(weights, layer + "mixture.shared.up"));
    CHECK(has(weights, layer + "mixture.experts.1.down"));
  }
  CHECK(has(weights, "rmsnorm.gain"));
  CHECK_FALSE(has(weights, "layers.3.rmsnorm.gain"));
}

TEST_CASE("a decoder may have no dense layers, or only such") {
  CHECK(has(names<all_mixtures>(), "layers.0.mixture.router"));
  CHECK(has(names<all_dense>(), "layers.2.mlp.down"));
  for (auto const& name : names<all_mixtures>()) CHECK(name.find("mlp") == std::string::npos);
  for (auto const& name : names<all_dense>()) CHECK(name.find("mixture") == std::string::npos);
}

TEST_CASE("constants stand behind the embedding, in every residual, and before the head") {
  constexpr fg::architecture multiplied = [] {
    fg::architecture a = mixed;
    a.multipliers = {.embedding = 12, .residual = 0.25, .logits = 0.125};
    return fg::checked(a);
  }();
  CHECK(names<multiplied>() == names<mixed>());
  CHECK(fg::parameters(fg::decoder<multiplied>{}) == fg::parameters(fg::decoder<mixed>{}));
  constexpr fg::rmsnorm<8> norm;
  constexpr fg::times<8, 0.25> by;
  constexpr fg::attention<8, 2, 1, 4> attention;
  constexpr auto dense =
      fg::residual(norm | attention | by) | fg::residual(norm | fg::mlp<8, 20>{} | by);
  constexpr auto moe =
      fg::residual(norm | attention | by) | fg::residual(norm | fg::mixture<mixed.moe>{} | by);
  CHECK(std::is_same_v<decltype(fg::dense_block<multiplied>::expr), decltype(dense)>);
  CHECK(std::is_same_v<decltype(fg::moe_block<multiplied>::expr), decltype(moe)>);
  constexpr auto layers =
      fg::repeat<1>(fg::dense_block<multiplied>{}) | fg::repeat<2>(fg::moe_block<multiplied>{});
  constexpr auto whole = fg::embedding<50, 8>{} | fg::times<8, 12.0>{} | layers |
                         (norm | fg::times<8, 0.125>{}) | fg::head<8, 50>{};
  CHECK(std::is_same_v<decltype(fg::decoder<multiplied>::expr), decltype(whole)>);
}

TEST_CASE("the first layers with a mixture may send tokens by their ids") {
  constexpr fg::architecture hashed = [] {
    fg::architecture a = mixed;
    a.hash_layers = 1;
    return fg::checked(a);
  }();
  auto const weights = names<hashed>();
  CHECK(has(weights, "layers.0.mlp.gate"));
  CHECK(has(weights, "layers.1.mixture.table"));
  CHECK(has(weights, "layers.1.mixture.router"));  // it weighs what the table chose
  CHECK_FALSE(has(weights, "layers.2.mixture.table"));
  CHECK(has(weights, "layers.2.mixture.router"));
  CHECK(fg::parameters(fg::decoder<hashed>{}) == fg::parameters(fg::decoder<mixed>{}));
}

TEST_CASE("the released models have as many named weights as their checkpoints have tensors") {
  CHECK(names<presets::deepseek_moe_16b>().size() == 5466);
  CHECK(names<presets::deepseek_v2_lite>().size() == 5291);
}

TEST_CASE("DeepSeekMoE 16B has 16.4 B parameters, of which a token runs through 2.8 B") {
  constexpr fg::decoder<presets::deepseek_moe_16b> model;
  CHECK(fg::parameters(model) == 16'375'728'128);
  CHECK(fg::active_parameters(model) == 2'828'650'496);
}

TEST_CASE("DeepSeek-V3 has 671 B parameters, of which a token runs through 37 B") {
  constexpr fg::decoder<presets::deepseek_v3> model;
  CHECK(fg::parameters(model) == 671'026'404'352);
  CHECK(fg::active_parameters(model) == 37'552'282'624);
}

TEST_CASE("latent attention keeps a fraction of what key and value heads would") {
  CHECK(fg::cache_width(fg::decoder<presets::deepseek_v3>{}) == 61 * 576);
  CHECK(fg::cache_width(fg::decoder<presets::deepseek_67b>{}) == 95 * 2 * 8 * 128);
}
