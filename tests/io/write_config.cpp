// config.json written for a decoder: what each family's says, that it is read as it was, and what no model
// of a family computes.
// SPDX-License-Identifier: Apache-2.0
#include <clocale>
#include <finegrain/config/presets.hpp>
#include <finegrain/config/profiles.hpp>
#include <finegrain/io/published_families.hpp>
#include <finegrain/reference/reference.hpp>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;
namespace presets = finegrain::presets;
namespace families = finegrain::families;

namespace {

/// The values of a written config, as they are read.
fg::detail::config_values values_of(std::string const& text) {
  return fg::detail::config_reader<>(text, "written").read();
}
/// A decoder's as check_published has nothing against it, but against each of its numbers were it otherwise.
template <fg::architecture A>
void accepted(fg::published_family const& family) {
  folder const here;
  auto const check = [&](std::string const& text) {
    put(here / "config.json", text);
    fg::check_published<fg::decoder<A>>(here / "config.json");
  };
  std::string const text = fg::published_config<fg::decoder<A>>(family);
  INFO(text);
  CHECK_NOTHROW(check(text));
  auto const values = values_of(text);
  for (auto const& [name, value] : values) {
    CAPTURE(name);
    auto others = values;
    // What a family does whatever its config says of it, or is nothing that is computed.
    static std::set<std::string> const free{
        "attention_dropout", "bos_token_id",      "eos_token_id",     "initializer_range",
        "model_type",        "torch_dtype",       "pad_token_id",     "num_nextn_predict_layers",
        "use_cache",         "architectures.0",   "use_routing_bias", "max_position_embeddings",
        "qk_norm_type",      "use_sliding_window"};
    if (free.contains(name)) continue;
    auto const number = value.number();
    bool const group = name == "n_group" || name == "topk_group";
    if (group && values.at("n_group") == 1) continue;  // which limits nothing
    if (name == "sliding_window" && values.contains("use_sliding_window")) continue;
    if (number)
      others[name] = 2 * *number + 3;
    else
      others[name] = value == nullptr ? fg::detail::config_value(7) : "another";
    CHECK_THROWS_WITH(check(fg::detail::config_text(others)), ContainsSubstring(name + " is "));
  }
}
/// Why no model of a family is this one.
template <fg::architecture A>
std::string refusal(fg::published_family const& family) {
  try {
    fg::published_config<fg::decoder<A>>(family);
  } catch (fg::invalid_argument const& e) {
    std::string const text = e.what();
    return text.substr(text.find("): ") + 3);
  }
  return {};
}
/// An architecture with one number otherwise.
template <class F>
constexpr fg::architecture but(fg::architecture a, F&& change) {
  change(a);
  return fg::checked(a);
}
constexpr fg::architecture qwen3 = presets::qwen3_30b_a3b, mixtral = presets::mixtral_8x7b,
                           v2 = presets::deepseek_v2, v3 = presets::deepseek_v3;

constexpr fg::architecture tiny_v3() {
  fg::architecture a = tiny::latent_numbers;
  a.moe = fg::profiles::deepseek_v3_hf(a.moe);
  a.latent.yarn = {};
  return fg::checked(a);
}

}  // namespace

TEST_CASE("a preset's written config says what it computes, and nothing else passes for it") {
  accepted<presets::deepseek_v2>(families::deepseek_v2);
  accepted<presets::deepseek_v2_lite>(families::deepseek_v2);
  accepted<presets::deepseek_v3>(families::deepseek_v3);
  accepted<presets::moonlight_16b_a3b>(families::deepseek_v3);
  accepted<presets::kimi_k2>(families::deepseek_v3);
  accepted<presets::dots_llm1>(families::dots1);
  accepted<presets::ernie_4_5_21b_a3b>(families::ernie4_5_moe);
  accepted<presets::glm_4_5>(families::glm4_moe);
  accepted<presets::glm_4_5_air>(families::glm4_moe);
  accepted<presets::glm_4_7_flash>(families::glm4_moe_lite);
  accepted<presets::granite_3_1_1b_a400m>(families::granitemoe);
  accepted<but(presets::granite_3_1_1b_a400m, [](auto& a) { a.moe.shared = 2; })>(
      families::granitemoeshared);
  accepted<presets::minimax_m2>(families::minimax_m2);
  accepted<presets::mixtral_8x7b>(families::mixtral);
  accepted<presets::mixtral_8x22b>(families::mixtral);
  accepted<presets::olmoe_1b_7b>(families::olmoe);
  accepted<presets::qwen1_5_moe_a2_7b>(families::qwen2_moe);
  accepted<presets::qwen2_57b_a14b>(families::qwen2_moe);
  accepted<presets::qwen3_30b_a3b>(families::qwen3_moe);
  accepted<presets::qwen3_235b_a22b>(families::qwen3_moe);
  accepted<presets::qwen3_coder_480b_a35b>(families::qwen3_moe);
}

TEST_CASE("dense layers, dense models and one table are said where a family has words for them") {
  static constexpr auto begun =
      but(qwen3, [](auto& a) { a.dense_layers = 2, a.dense_width = 6144; });
  accepted<begun>(families::qwen3_moe);
  auto const said = values_of(fg::published_config<fg::decoder<begun>>(families::qwen3_moe));
  CHECK(said.at("mlp_only_layers.1") == 1);
  CHECK(said.at("intermediate_size") == 6144);
  CHECK_FALSE(said.contains("mlp_only_layers.2"));
  static constexpr auto dense = but(qwen3, [](auto& a) {
    a.dense_layers = a.layers, a.dense_width = 6144, a.moe = {}, a.tied = true;
  });
  accepted<dense>(families::qwen3);
  CHECK(values_of(fg::published_config<fg::decoder<dense>>(families::qwen3))
            .at("tie_word_embeddings") == true);
  static constexpr auto later = but(presets::glm_4_7_flash, [](auto& a) { a.dense_layers = 12; });
  accepted<later>(families::glm4_moe_lite);
  CHECK(values_of(fg::published_config<fg::decoder<later>>(families::glm4_moe_lite))
            .at("mlp_layer_types.11") == "dense");
}

TEST_CASE("numbers are written in the fewest digits that are read as they were, in any locale") {
  static constexpr auto odd = but(qwen3, [](auto& a) {
    a.attention.theta = 1000000.1;
    a.attention.epsilon = a.epsilon = 0.1 + 0.2;
    a.attention.yarn = {.factor = 1.1f, .original = 32768, .mscale = 0.7f, .mscale_all = 0.3f};
  });
  char const* const before = std::setlocale(LC_ALL, nullptr);
  std::string const as_before = before ? before : "C";
  for (char const* comma : {"de_DE.UTF-8", "C"}) {
    std::setlocale(LC_ALL, comma);
    std::string const text = fg::published_config<fg::decoder<odd>>(families::qwen3_moe);
    auto const has = [&](char const* line) { CHECK_THAT(text, ContainsSubstring(line)); };
    has("\"rope_theta\": 1000000.1,");
    has("\"rms_norm_eps\": 0.30000000000000004,");
    has("\"factor\": 1.1,");
    has("\"mscale\": 0.7,");
    has("\"hidden_size\": 2048,");
    has("\"architectures\": [\"Qwen3MoeForCausalLM\"],");
    auto const values = values_of(text);
    CHECK(*values.at("rms_norm_eps").number() == odd.epsilon);
    CHECK(*values.at("rope_theta").number() == odd.attention.theta);
    CHECK(float(*values.at("rope_scaling.factor").number()) == 1.1f);
  }
  std::setlocale(LC_ALL, as_before.c_str());
  // A number of JSON that has no fraction is a whole one to Python.
  std::string const plain = fg::published_config<fg::decoder<mixtral>>(families::mixtral);
  CHECK_THAT(plain, ContainsSubstring("\"rope_theta\": 1e+06,"));
  CHECK_THAT(fg::published_config<fg::decoder<v2>>(families::deepseek_v2),
             ContainsSubstring("\"routed_scaling_factor\": 16.0,"));
  static constexpr auto round = but(mixtral, [](auto& a) { a.vocabulary = 100000; });
  CHECK_THAT(fg::published_config<fg::decoder<round>>(families::mixtral),
             ContainsSubstring("\"vocab_size\": 100000\n"));
}

TEST_CASE("a written part of a head is read as so many of its numbers") {
  static constexpr auto part = but(presets::glm_4_5, [](auto& a) {
    a.head_dim = 98;
    a.attention.rotary = 2;
  });
  auto const values = values_of(fg::published_config<fg::decoder<part>>(families::glm4_moe));
  CHECK(int(98 * *values.at("partial_rotary_factor").number()) == 2);

  // transformers makes the part of rotary_dim, 30 / 44, of which it then finds 29, unless it is said.
  static constexpr auto divided = but(presets::minimax_m2, [](auto& a) {
    a.head_dim = 44;
    a.attention.rotary = 30;
  });
  accepted<divided>(families::minimax_m2);
  auto const both = values_of(fg::published_config<fg::decoder<divided>>(families::minimax_m2));
  CHECK(both.at("rotary_dim") == 30);
  REQUIRE(int(44 * (30 / 44.0)) == 29);
  CHECK(int(44 * *both.at("partial_rotary_factor").number()) == 30);
}

TEST_CASE("what no network knows of its config is said, and has defaults") {
  auto const written = [](fg::published_facts const& facts) {
    return values_of(fg::published_config<fg::decoder<tiny_v3()>>(families::deepseek_v3, facts));
  };
  auto const plain = written({});
  CHECK(plain.at("max_position_embeddings") == 4096);
  CHECK(plain.at("torch_dtype") == "bfloat16");
  for (char const* id : {"bos_token_id", "eos_token_id", "pad_token_id"})
    CHECK(plain.at(id) == nullptr);
  auto const said =
      written({.type = fg::dtype::f16, .positions = 100, .bos = 0, .eos = 31, .pad = 2});
  CHECK(said.at("max_position_embeddings") == 100);
  CHECK(said.at("torch_dtype") == "float16");
  CHECK(said.at("bos_token_id") == 0);
  CHECK(said.at("eos_token_id") == 31);
  CHECK(said.at("pad_token_id") == 2);
  CHECK(values_of(fg::published_config<fg::decoder<v3>>(families::deepseek_v3))
            .at("max_position_embeddings") == 163840);

  CHECK_THROWS_WITH(written({.positions = -1}), ContainsSubstring("positions, -1, must not be"));
  CHECK_THROWS_WITH(written({.eos = 32}),
                    ContainsSubstring("eos_token_id, 32, is no id of the vocabulary"));
  CHECK_THROWS_WITH(written({.bos = -2}), ContainsSubstring("bos_token_id, -2, is no id"));
  CHECK_THROWS_WITH(written({.type = fg::dtype::i64}),
                    ContainsSubstring("weights are published in F64, F32, BF16 or F16"));
}

TEST_CASE("a decoder that no model of the family is, is refused with what differs") {
  auto const moe = [](auto&& change) { return [=](auto& a) { change(a.moe); }; };
  // Of the mixture.
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.groups = 4, c.group_limit = 2; }))>(
            families::qwen3_moe) ==
        "topk_method is greedy by default, group_limited_greedy here; n_group is 4 here, which "
        "qwen3_moe has no word for; topk_group is 2 here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.act.limit = 10; }))>(families::qwen3_moe) ==
        "swiglu_limit is 0 by default, 10 here");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.shared = 1; }))>(families::qwen3_moe) ==
        "n_shared_experts is 1 here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.bias = true; }))>(families::qwen3_moe) ==
        "moe.bias is true here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.score = fg::score::sigmoid; }))>(
            families::qwen3_moe) == "scoring_func is softmax by default, sigmoid here");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.scale = 2; }))>(families::qwen3_moe) ==
        "routed_scaling_factor is 1 by default, 2 here");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.cosine = 64; }))>(families::qwen3_moe) ==
        "moe.cosine is 64 here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.epsilon = 0.5f; }))>(families::qwen3_moe) ==
        "moe.epsilon is 0.5 here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.floor = 0.5f; }))>(families::qwen3_moe) ==
        "moe_norm_min is 0.5 here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, moe([](auto& c) { c.selection = fg::selection::sinkhorn; }))>(
            families::qwen3_moe) ==
        "moe.selection is not top_k here, which qwen3_moe has no word for");
  CHECK(refusal<but(qwen3, [](auto& a) { a.hash_layers = 3; })>(families::qwen3_moe) ==
        "moe.selection is not top_k here, which qwen3_moe has no word for");
  CHECK(refusal<but(v3, moe([](auto& c) { c.by_logits = true; }))>(families::deepseek_v3) ==
        "moe.by_logits is true here, which deepseek_v3 has no word for");
  CHECK(refusal<but(v3, moe([](auto& c) { c.shared_scale = 2; }))>(families::deepseek_v3) ==
        "moe.shared_scale is 2 here, which deepseek_v3 has no word for");
  CHECK(refusal<but(v3, moe([](auto& c) { c.shared_gate = true; }))>(families::deepseek_v3) ==
        "moe.shared_gate is true here, which deepseek_v3 has no word for");
  CHECK(refusal<but(v3, moe([](auto& c) { c.bias = false; }))>(families::deepseek_v3) ==
        "moe.bias is true in deepseek_v3, false here");
  CHECK(refusal<but(v3, moe([](auto& c) { c.shared = 0; }))>(families::deepseek_v3) ==
        "deepseek_v3 has n_shared_experts, which no stage here has");
  CHECK(refusal<but(v3, moe([](auto& c) { c.group_score = fg::group_score::max; }))>(
            families::deepseek_v3) ==
        "topk_method is noaux_tc in deepseek_v3, group_limited_greedy here");
  CHECK(refusal<but(v2, moe([](auto& c) { c.group_score = fg::group_score::top2_sum; }))>(
            families::deepseek_v2) == "moe.group_score is max in deepseek_v2, a sum here");
  CHECK(refusal<but(v2, moe([](auto& c) { c.renormalise = true; }))>(families::deepseek_v2) ==
        "norm_topk_prob is false in deepseek_v2, true here");
  CHECK(refusal<but(mixtral, moe([](auto& c) { c.renormalise = false, c.top_k = 1; }))>(
            families::mixtral) == "norm_topk_prob is true by default, false here");
  CHECK(refusal<but(presets::qwen1_5_moe_a2_7b, moe([](auto& c) { c.shared_gate = false; }))>(
            families::qwen2_moe) == "moe.shared_gate is true in qwen2_moe, false here");
  // A choice by logits is that by scores where nothing is added to them.
  CHECK(refusal<but(mixtral, [](auto& a) { a.moe = fg::profiles::megatron(a.moe); })>(
            families::mixtral) == "");

  // Of attention.
  auto const form = [](auto&& change) { return [=](auto& a) { change(a.attention); }; };
  CHECK(refusal<but(mixtral, form([](auto& f) { f.bias = true; }))>(families::mixtral) ==
        "qkv_bias is true here, which mixtral has no word for");
  CHECK(refusal<but(mixtral, form([](auto& f) { f.rotary = 64; }))>(families::mixtral) ==
        "partial_rotary_factor is 1 by default, 0.5 here");
  CHECK(refusal<but(mixtral, form([](auto& f) { f.scale = 0.25; }))>(families::mixtral) ==
        "attention_multiplier is 0.08838834764831843 by default, 0.25 here");
  CHECK(refusal<but(mixtral,
                    [](auto& a) {
                      a.multipliers = {12, 0.25, 0.5};
                    })>(families::mixtral) ==
        "embedding_multiplier is 1 by default, 12 here; residual_multiplier is 1 by default, 0.25 "
        "here; logits_scaling is 1 by default, 2 here");
  CHECK(refusal<but(presets::granite_3_1_1b_a400m, [](auto& a) { a.moe.shared = 2; })>(
            families::granitemoe) ==
        "n_shared_experts is 2 here, which granitemoe has no word for");
  CHECK(refusal<mixtral>(families::qwen3_moe) == "use_qk_norm is true in qwen3_moe, false here");
  CHECK(refusal<but(qwen3, form([](auto& f) { f.norm = fg::head_norm::all; }))>(
            families::qwen3_moe) == "attention.norm is each in qwen3_moe, all here");
  CHECK(refusal<but(qwen3, form([](auto& f) { f.epsilon = 1e-5; }))>(families::qwen3_moe) ==
        "rms_norm_eps is 1e-06 in an earlier stage, 1e-05 here");
  CHECK(refusal<but(mixtral, form([](auto& f) { f.yarn = {.factor = 4, .mscale = 0.5f}; }))>(
            families::mixtral) ==
        "yarn.mscale beside mscale_all is 0.5 here, which mixtral has no word for");
  // All else follows from another kind of attention.
  CHECK(refusal<v3>(families::qwen3_moe) ==
        "attention.latent is true here, which qwen3_moe has no word for");
  CHECK(refusal<mixtral>(families::deepseek_v3) ==
        "attention.latent is true in deepseek_v3, false here");
  CHECK(refusal<but(v2, [](auto& a) { a.heads = 96; })>(families::deepseek_v2) ==
        "hidden_size % num_attention_heads is 0 in deepseek_v2, 32 here");
  CHECK(refusal<but(v2, [](auto& a) { a.latent.nope = 127; })>(families::deepseek_v2) ==
        "qk_nope_head_dim % 2 is 0 in deepseek_v2, 1 here");
  CHECK(refusal<but(v2, [](auto& a) { a.latent.kv_rank = 511; })>(families::deepseek_v2) ==
        "kv_lora_rank % 2 is 0 in deepseek_v2, 1 here");
  CHECK(
      refusal<but(v3, [](auto& a) { a.latent.nope = 127, a.latent.kv_rank = 511, a.heads = 96; })>(
          families::deepseek_v3) == "");
  CHECK(refusal<but(presets::olmoe_1b_7b, [](auto& a) { a.head_dim = 64; })>(families::olmoe) ==
        "num_attention_heads * head_dim == hidden_size is true in olmoe, false here");

  // Of layers.
  CHECK(refusal<but(mixtral, [](auto& a) { a.dense_layers = 1, a.dense_width = 14336; })>(
            families::mixtral) == "first_k_dense_replace is 1 here, which mixtral has no word for");
  CHECK(refusal<presets::llama2_7b>(families::mixtral) ==
        "mixtral has num_experts_per_tok, which no stage here has; mixtral has num_local_experts, "
        "which no stage here has");
  CHECK_THROWS_WITH(
      fg::published_config<fg::decoder<v2>>(families::deepseek_v3),
      ContainsSubstring("no deepseek_v3 computes what this decoder does (differences: 3): "));
}

TEST_CASE("what a family of one's own has no word for is refused") {
  std::string form(families::qwen3_moe.form);
  auto const replace = [&](std::string_view words, std::string_view others) {
    form.replace(form.find(words), words.size(), others);
  };
  replace(R"("qwen3_moe")", R"("own")");
  replace(R"("norm_topk_prob": "?",)", "");
  std::string always = R"({"attention.norm": "each", "use_qk_norm": true})";
  CHECK(refusal<qwen3>({fg::deepseek_name, form, always}) ==
        "scoring_func is softmax here, which own has no word for; norm_topk_prob is false by "
        "default, true here");
  always.insert(1, R"("scoring_func": "softmax", "norm_topk_prob": true, )");
  fg::published_family const own(fg::deepseek_name, form, always);
  CHECK(refusal<qwen3>(own) == "");
  CHECK(refusal<but(qwen3, [](auto& a) { a.moe.scale = 2; })>(own) ==
        "routed_scaling_factor is 1 by default, 2 here");
  CHECK(refusal<but(qwen3, [](auto& a) { a.moe.groups = 4, a.moe.group_limit = 2; })>(own) ==
        "topk_method is group_limited_greedy here, which own has no word for; n_group is 4 here, "
        "which own has no word for; topk_group is 2 here, which own has no word for");
}

TEST_CASE("a decoder is published whole, weights and config, or not at all") {
  using network = fg::network<fg::decoder<tiny_v3()>, fg::basic_reference<float>>;
  folder const here;
  network net({.deviation = 0.5, .seed = 1});
  std::string const there = here / "tuned";
  fg::save_published(net, there, families::deepseek_v3, {.type = fg::dtype::f32, .eos = 3});
  CHECK(contents(there + "/config.json") ==
        fg::published_config<fg::decoder<tiny_v3()>>(families::deepseek_v3,
                                                     {.type = fg::dtype::f32, .eos = 3}));
  network read;
  fg::load_published(read, there);
  // A place, not a family.
  fg::save_published(net, here / "weights.safetensors", {});
  CHECK_NOTHROW(fg::load_published(read, here / "weights.safetensors"));
  fg::load_published(read, there);
  CHECK(std::equal(read.parameters().begin(), read.parameters().end(), net.parameters().begin()));

  // What is refused changes nothing.
  CHECK_THROWS_AS(fg::save_published(net, here / "other", families::qwen3_moe),
                  fg::invalid_argument);
  CHECK_THROWS_AS(fg::save_published(net, here / "other", families::deepseek_v3, {.eos = 99}),
                  fg::invalid_argument);
  net.weight("head.weight")(0, 0) = 1e30f;
  CHECK_THROWS_AS(
      fg::save_published(net, here / "other", families::deepseek_v3, {.type = fg::dtype::f16}),
      fg::invalid_argument);
  CHECK_FALSE(std::filesystem::exists(here / "other"));
  std::string const config = contents(there + "/config.json");
  CHECK_THROWS_AS(fg::save_published(net, there, families::deepseek_v3, {.type = fg::dtype::f16}),
                  fg::invalid_argument);
  CHECK(contents(there + "/config.json") == config);
  CHECK_NOTHROW(fg::load_published(read, there));
  CHECK(std::distance(std::filesystem::directory_iterator(there), {}) == 2);

  CHECK_THROWS_WITH(fg::save_published(net, here / "none" + "/of", families::deepseek_v3),
                    ContainsSubstring("cannot make the folder"));
  put(there + "/model.safetensors.index.json", "{}");
  CHECK_THROWS_WITH(
      fg::save_published(net, there, families::deepseek_v3),
      ContainsSubstring("index.json is there: the model would stand in one file and in others"));
}

namespace {
/// Names are asked for when both files are begun: a folder that then comes into the weights' place cannot be
/// replaced by them.
std::string blocked;
std::string blocking_name(std::string_view ours) {
  std::filesystem::remove(blocked);
  std::filesystem::create_directories(blocked);
  return fg::deepseek_name(ours);
}
}  // namespace

TEST_CASE("a folder that has another decoder is without config.json until its weights are there") {
  using before = fg::network<fg::decoder<tiny_v3()>, fg::basic_reference<float>>;
  static constexpr auto scaled = but(tiny_v3(), [](auto& a) { a.moe.scale = 3; });
  using after = fg::network<fg::decoder<scaled>, fg::basic_reference<float>>;
  folder const here;
  before const old({.deviation = 0.5, .seed = 1});
  after const net({.deviation = 0.5, .seed = 2});
  fg::published_facts const facts{.type = fg::dtype::f32};
  std::filesystem::create_directory(here / "elsewhere");
  auto const is = [&](auto read, auto const& saved) {
    fg::load_published(read, here / "m");
    CHECK(
        std::equal(read.parameters().begin(), read.parameters().end(), saved.parameters().begin()));
    CHECK(std::distance(std::filesystem::directory_iterator(here / "m"), {}) == 2);
  };
  fg::save_published(old, here / "m", families::deepseek_v3, facts);
  fg::save_published(net, here / "m", families::deepseek_v3, facts);
  is(after(), net);
  CHECK_THROWS_AS(is(before(), old), fg::mismatch);
  // So where config.json is a link.
  std::filesystem::rename(here / "m" + "/config.json", here / "elsewhere/config.json");
  std::filesystem::create_symlink("../elsewhere/config.json", here / "m" + "/config.json");
  fg::save_published(old, here / "m", families::deepseek_v3, facts);
  is(before(), old);
  CHECK(std::filesystem::is_symlink(here / "m" + "/config.json"));

  blocked = here / "m" + "/model.safetensors";
  fg::published_family const blocks(blocking_name, families::deepseek_v3.form,
                                    families::deepseek_v3.always);
  auto const interrupted = [&](auto const& saved) {
    CHECK_THROWS_WITH(fg::save_published(saved, here / "m", blocks, facts),
                      ContainsSubstring("cannot replace"));
    return std::filesystem::exists(here / "m" + "/config.json");
  };
  CHECK(interrupted(old));  // the same config
  std::filesystem::remove(blocked);
  CHECK_FALSE(interrupted(net));
}
