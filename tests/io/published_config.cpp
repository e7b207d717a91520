// config.json of published models: what each family's says, and what is refused.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/config/profiles.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;
namespace presets = finegrain::presets;

namespace {

using lines = std::vector<std::string>;

/// What a config says otherwise than an expression.
template <fg::Expr E>
lines differences(std::string const& config) {
  folder const here;
  put(here / "config.json", config);
  try {
    fg::check_published<E>(here / "config.json");
  } catch (fg::mismatch const& e) {
    CHECK(std::string(e.what()).find(e.differences->front()) != std::string::npos);
    return *e.differences;
  }
  return {};
}

/// A text with other words in the place of some that occur once.
std::string with(std::string text, std::string_view words, std::string_view others) {
  std::size_t const at = text.find(words);
  REQUIRE(at != text.npos);
  REQUIRE(text.find(words, at + 1) == text.npos);
  return text.replace(at, words.size(), others);
}
/// A config with one more member.
std::string and_also(std::string const& text, std::string const& member) {
  return "{" + member + ", " + text.substr(text.find('{') + 1);
}

// ---- as published -------------------------------------------------------------------------------

std::string const deepseek_16b = R"({
  "architectures": ["DeepseekForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"}, "aux_loss_alpha": 0.001,
  "bos_token_id": 100000, "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 10944,
  "max_position_embeddings": 4096, "model_type": "deepseek", "moe_intermediate_size": 1408,
  "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
  "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 28,
  "num_key_value_heads": 16, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": null,
  "rope_theta": 10000, "scoring_func": "softmax", "seq_aux": true, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 102400})";

std::string const deepseek_v2 = R"({
  "attention_bias": false, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 5120,
  "intermediate_size": 12288, "kv_lora_rank": 512, "max_position_embeddings": 163840,
  "model_type": "deepseek_v2", "moe_intermediate_size": 1536, "moe_layer_freq": 1, "n_group": 8,
  "n_routed_experts": 160, "n_shared_experts": 2, "norm_topk_prob": false,
  "num_attention_heads": 128, "num_experts_per_tok": 6, "num_hidden_layers": 60,
  "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
    "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096,
    "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 16.0, "scoring_func": "softmax",
  "tie_word_embeddings": false, "topk_group": 3, "topk_method": "group_limited_greedy",
  "v_head_dim": 128, "vocab_size": 102400})";

std::string deepseek_v2_lite() {
  std::string text = deepseek_v2;
  for (auto [words, others] :
       {std::pair{"\"hidden_size\": 5120", "\"hidden_size\": 2048"},
        {"12288", "10944"},
        {"\"moe_intermediate_size\": 1536", "\"moe_intermediate_size\": 1408"},
        {"\"n_group\": 8", "\"n_group\": 1"},
        {"160", "64"},
        {"\"num_attention_heads\": 128", "\"num_attention_heads\": 16"},
        {"\"num_hidden_layers\": 60", "\"num_hidden_layers\": 27"},
        {"\"num_key_value_heads\": 128", "\"num_key_value_heads\": 16"},
        {"\"q_lora_rank\": 1536", "\"q_lora_rank\": null"},
        {"16.0", "1.0"},
        {"\"topk_group\": 3", "\"topk_group\": 1"},
        {"group_limited_greedy", "greedy"}})
    text = with(text, words, others);
  return text;
}

std::string const deepseek_v3 = R"({
  "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
  "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
    "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
    "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128,
  "vocab_size": 129280})";

std::string const ernie_4_5 = R"({
  "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 12288,
  "max_position_embeddings": 131072, "model_type": "ernie4_5_moe", "moe_intermediate_size": 1536,
  "moe_k": 6, "moe_layer_end_index": 27, "moe_layer_interval": 1, "moe_layer_start_index": 1,
  "moe_norm_min": 1e-12, "moe_num_experts": 64, "moe_num_shared_experts": 2,
  "num_attention_heads": 20, "num_hidden_layers": 28, "num_key_value_heads": 4,
  "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
  "tie_word_embeddings": true, "use_bias": false, "vocab_size": 103424})";

/// Of V3's form.
std::string const moonlight = R"({
  "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu",
  "hidden_size": 2048, "intermediate_size": 11264, "kv_lora_rank": 512,
  "max_position_embeddings": 8192, "model_type": "deepseek_v3", "moe_intermediate_size": 1408,
  "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2,
  "norm_topk_prob": true, "num_attention_heads": 16, "num_experts_per_tok": 6,
  "num_hidden_layers": 27, "num_key_value_heads": 16, "num_nextn_predict_layers": 0,
  "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05,
  "rope_theta": 50000.0, "routed_scaling_factor": 2.446, "scoring_func": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 128,
  "vocab_size": 163840})";
std::string const kimi_k2 = R"({
  "attention_bias": false, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 7168,
  "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 131072,
  "model_type": "kimi_k2", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 1,
  "n_routed_experts": 384, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 61,
  "num_key_value_heads": 64, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
    "type": "yarn"},
  "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "scoring_func": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 128,
  "vocab_size": 163840})";

std::string const qwen1_5_moe = R"({
  "architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1, "hidden_act": "silu",
  "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 8192,
  "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
  "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
  "num_hidden_layers": 24, "num_key_value_heads": 16, "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
  "sliding_window": 32768, "tie_word_embeddings": false, "use_sliding_window": false,
  "vocab_size": 151936})";

std::string const qwen3_30b = R"({
  "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
  "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
  "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
  "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
  "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": null,
  "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
  "use_sliding_window": false, "vocab_size": 151936})";

std::string const olmoe = R"({
  "attention_bias": false, "clip_qkv": null, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe",
  "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
  "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-05, "rope_scaling": null,
  "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 50304})";

std::string const mixtral = R"({
  "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
  "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
  "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "num_local_experts": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null,
  "tie_word_embeddings": false, "vocab_size": 32000})";

std::string const granite = R"({
  "attention_bias": false, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
  "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 512, "logits_scaling": 6.0,
  "max_position_embeddings": 131072, "model_type": "granitemoe", "num_attention_heads": 16,
  "num_experts_per_tok": 8, "num_hidden_layers": 24, "num_key_value_heads": 8,
  "num_local_experts": 32, "residual_multiplier": 0.22, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1500000.0, "tie_word_embeddings": true,
  "vocab_size": 49155})";

/// Not a copy of the file: numbers of a public extract, and the scoring_func that llama.cpp reads.
std::string const dots_llm1 = R"({
  "attention_bias": false, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 4096,
  "intermediate_size": 10944, "max_position_embeddings": 32768, "model_type": "dots1",
  "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 2,
  "norm_topk_prob": true, "num_attention_heads": 32, "num_experts_per_tok": 6,
  "num_hidden_layers": 62, "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_scaling": null,
  "rope_theta": 10000000, "routed_scaling_factor": 2.5, "scoring_func": "noaux_tc",
  "sliding_window": null, "tie_word_embeddings": false, "topk_group": 1,
  "topk_method": "noaux_tc", "vocab_size": 152064})";

std::string const glm_4_5 = R"({
  "attention_bias": true, "first_k_dense_replace": 3, "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 5120, "intermediate_size": 12288, "max_position_embeddings": 131072,
  "model_type": "glm4_moe", "moe_intermediate_size": 1536, "n_group": 1, "n_routed_experts": 160,
  "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 96,
  "num_experts_per_tok": 8, "num_hidden_layers": 92, "num_key_value_heads": 8,
  "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 2.5,
  "tie_word_embeddings": false, "topk_group": 1, "use_qk_norm": true, "vocab_size": 151552})";

std::string const glm_4_7_flash = R"({
  "architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "dtype": "bfloat16", "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 10240, "kv_lora_rank": 512, "max_position_embeddings": 202752,
  "model_type": "glm4_moe_lite", "moe_intermediate_size": 1536, "n_group": 1,
  "n_routed_experts": 64, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 20, "num_experts_per_tok": 4, "num_hidden_layers": 47,
  "num_key_value_heads": 20, "num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0,
  "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 1.8,
  "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 256,
  "vocab_size": 154880})";

std::string const minimax_m2 = R"({
  "attn_type_list": [1, 1, 1], "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072,
  "intermediate_size": 1536, "max_position_embeddings": 196608, "model_type": "minimax_m2",
  "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
  "num_key_value_heads": 8, "num_local_experts": 256, "qk_norm_type": "per_layer",
  "rms_norm_eps": 1e-06, "rope_theta": 5000000, "rotary_dim": 64, "scoring_func": "sigmoid",
  "shared_intermediate_size": 0, "tie_word_embeddings": false, "use_qk_norm": true,
  "use_routing_bias": true, "vocab_size": 200064})";

std::string const deepseek_v4_flash = R"({
  "architectures": ["DeepseekV4ForCausalLM"], "attention_bias": false, "expert_dtype": "fp4",
  "hc_mult": 4, "head_dim": 512, "hidden_act": "silu", "hidden_size": 4096, "index_topk": 512,
  "max_position_embeddings": 1048576, "model_type": "deepseek_v4", "moe_intermediate_size": 2048,
  "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 64, "num_experts_per_tok": 6, "num_hidden_layers": 43,
  "num_hash_layers": 3, "num_key_value_heads": 1, "num_nextn_predict_layers": 1,
  "o_groups": 8, "o_lora_rank": 1024, "q_lora_rank": 1024, "qk_rope_head_dim": 64,
  "quantization_config": {"fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128]}, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 16,
    "original_max_position_embeddings": 65536, "type": "yarn"}, "rope_theta": 10000,
  "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "sliding_window": 128,
  "swiglu_limit": 10.0, "tie_word_embeddings": false, "topk_method": "noaux_tc",
  "vocab_size": 129280, "compress_ratios": [0, 0, 4, 128]})";

template <fg::architecture A>
lines of(std::string const& config) {
  return differences<fg::decoder<A>>(config);
}
/// One member is otherwise, and that is what is said.
template <fg::architecture A>
void refused(std::string const& config, std::string_view name, std::string_view theirs,
             std::string_view other, std::string_view ours = {}) {
  std::string const begin = "\"" + std::string(name.substr(name.rfind('.') + 1)) + "\": ";
  std::string const changed = with(config, begin + std::string(theirs), begin + std::string(other));
  std::string const value(other.starts_with('"') ? other.substr(1, other.size() - 2) : other);
  std::string const here(ours.empty() ? theirs : ours);
  CHECK(of<A>(changed) == lines{std::string(name) + " is " + value + " in config.json, " +
                                (here == "null" ? "which no stage here has" : here + " here")});
}

}  // namespace

TEST_CASE("presets compute what the published configs of their models say") {
  CHECK(of<presets::deepseek_moe_16b>(deepseek_16b) == lines{});
  CHECK(of<presets::deepseek_v2>(deepseek_v2) == lines{});
  CHECK(of<presets::deepseek_v2_lite>(deepseek_v2_lite()) == lines{});
  CHECK(of<presets::deepseek_v3>(deepseek_v3) == lines{});
  CHECK(of<presets::moonlight_16b_a3b>(moonlight) == lines{});
  CHECK(of<presets::kimi_k2>(kimi_k2) == lines{});
  CHECK(of<presets::kimi_k2>(with(kimi_k2, "\"scoring_func\": \"sigmoid\",", "")) == lines{});
  CHECK(of<presets::dots_llm1>(dots_llm1) == lines{});
  CHECK(of<presets::glm_4_5>(glm_4_5) == lines{});
  CHECK(of<presets::glm_4_7_flash>(glm_4_7_flash) == lines{});
  CHECK(of<presets::minimax_m2>(minimax_m2) == lines{});
  CHECK(of<presets::qwen1_5_moe_a2_7b>(qwen1_5_moe) == lines{});
  CHECK(of<presets::qwen3_30b_a3b>(qwen3_30b) == lines{});
  CHECK(of<presets::olmoe_1b_7b>(olmoe) == lines{});
  CHECK(of<presets::mixtral_8x7b>(mixtral) == lines{});
  CHECK(of<presets::granite_3_1_1b_a400m>(granite) == lines{});
}

TEST_CASE("a config's constant multipliers are compared with the factors between stages") {
  using presets::granite_3_1_1b_a400m;
  refused<granite_3_1_1b_a400m>(granite, "embedding_multiplier", "12.0", "1", "12");
  refused<granite_3_1_1b_a400m>(granite, "residual_multiplier", "0.22", "0.25");
  refused<granite_3_1_1b_a400m>(granite, "logits_scaling", "6.0", "8", "6");
  refused<granite_3_1_1b_a400m>(granite, "attention_multiplier", "0.015625", "0.125");
  // what a config does not say is 1, or as ever
  CHECK(of<granite_3_1_1b_a400m>(with(granite, "\"logits_scaling\": 6.0,", "")) ==
        lines{"logits_scaling is 1 by default, 6 here"});
  CHECK(of<granite_3_1_1b_a400m>(with(granite, "\"attention_multiplier\": 0.015625,", "")) ==
        lines{"attention_multiplier is 1 by default, 0.015625 here"});
  CHECK(of<presets::mixtral_8x7b>(and_also(mixtral, R"("residual_multiplier": 0.5)")) ==
        lines{"residual_multiplier is 0.5 in config.json, 1 here"});
  CHECK(of<presets::mixtral_8x7b>(and_also(mixtral, R"("attention_multiplier": 0.5)")) ==
        lines{"attention_multiplier is 0.5 in config.json, 0.08838834764831843 here"});
  constexpr fg::architecture sharp = [] {
    fg::architecture a = presets::mixtral_8x7b;
    a.attention.scale = 0.5;
    a.multipliers.embedding = 3;
    return a;
  }();
  CHECK(of<sharp>(mixtral) ==
        lines{"attention_multiplier is 0.08838834764831843 by default, 0.5 here",
              "embedding_multiplier is 1 by default, 3 here"});

  constexpr fg::embedding<8, 16> first;
  constexpr fg::rmsnorm<16> norm;
  constexpr fg::mlp<16, 4> ffn;
  constexpr fg::times<16, 0.5> half;
  constexpr fg::head<16, 8> last;
  std::string const text = R"({"embedding_multiplier": 0.5, "logits_scaling": 4.0,
                               "residual_multiplier": 0.5})";
  using published =
      decltype(first | half | fg::residual(norm | ffn | half) | norm | half | half | last);
  CHECK(differences<published>(text) == lines{});
  using uneven = decltype(first | half | fg::residual(norm | ffn) |
                          fg::residual(norm | ffn | half) | norm | half | half | last);
  CHECK(differences<uneven>(text) == lines{"residual_multiplier is 0.5 in config.json, 1 here"});
  using elsewhere =
      decltype(first | half | fg::residual(norm | half | ffn | half) | norm | half | half | last);
  CHECK(differences<elsewhere>(text) ==
        lines{"a factor elsewhere is 1 in published models, 0.5 here"});
  using behind = decltype(first | half | fg::residual(norm | ffn | half) | norm | half | last |
                          fg::times<8, 0.5>{});  // the head
  CHECK(differences<behind>(text) == lines{});

  // of parts of a model, what they have
  using inside = decltype(norm | ffn);
  CHECK(differences<inside>(text) == lines{});
  using layer = decltype(fg::residual(norm | ffn | half) | fg::residual(norm | ffn | half));
  CHECK(differences<layer>(text) == lines{});
  using without = decltype(fg::residual(norm | ffn));
  CHECK(differences<without>(text) == lines{"residual_multiplier is 0.5 in config.json, 1 here"});
  using begin = decltype(first | half);
  CHECK(differences<begin>(text) == lines{});
  using rows = std::remove_const_t<decltype(first)>;
  CHECK(differences<rows>(text) == lines{"embedding_multiplier is 0.5 in config.json, 1 here"});
  using end = decltype(norm | fg::times<16, 0.25>{} | last);
  CHECK(differences<end>(text) == lines{});
  using logits = decltype(norm | last);
  CHECK(differences<logits>(text) == lines{"logits_scaling is 4 in config.json, 1 here"});
  using both = decltype(fg::residual(norm | ffn) | half);  // not of what the residual adds
  CHECK(differences<decltype(both{} | norm)>(text) ==
        lines{"a factor elsewhere is 1 in published models, 0.5 here",
              "residual_multiplier is 0.5 in config.json, 1 here"});
}

TEST_CASE("a number that is otherwise in a config is named with both values") {
  refused<presets::deepseek_moe_16b>(deepseek_16b, "rope_theta", "10000", "5000");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "norm_topk_prob", "false", "true");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "scoring_func", "\"softmax\"", "\"sigmoid\"",
                                     "softmax");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "num_experts_per_tok", "6", "8");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "n_routed_experts", "64", "62");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "n_shared_experts", "2", "1");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "moe_intermediate_size", "1408", "1409");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "num_attention_heads", "16", "32");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "num_hidden_layers", "28", "27");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "vocab_size", "102400", "102399");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "hidden_size", "2048", "2047");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "hidden_act", "\"silu\"", "\"gelu\"", "silu");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "rms_norm_eps", "1e-06", "1e-05");

  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.factor", "40", "20");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.beta_fast", "32", "16");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.beta_slow", "1", "2");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.mscale", "0.707", "1");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.mscale_all_dim", "0.707", "0.708");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.original_max_position_embeddings",
                                "4096", "8192");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_scaling.type", "\"yarn\"", "\"linear\"", "yarn");
  refused<presets::deepseek_v2>(deepseek_v2, "topk_method", "\"group_limited_greedy\"",
                                "\"noaux_tc\"", "group_limited_greedy");
  refused<presets::deepseek_v2>(deepseek_v2, "topk_method", "\"group_limited_greedy\"",
                                "\"greedy\"", "group_limited_greedy");
  refused<presets::deepseek_v2>(deepseek_v2, "n_group", "8", "16");
  refused<presets::deepseek_v2>(deepseek_v2, "topk_group", "3", "4");
  refused<presets::deepseek_v2>(deepseek_v2, "routed_scaling_factor", "16.0", "1", "16");
  refused<presets::deepseek_v2>(deepseek_v2, "rope_theta", "10000", "1e+06");
  refused<presets::deepseek_v2>(deepseek_v2, "q_lora_rank", "1536", "1024");
  refused<presets::deepseek_v2>(deepseek_v2, "kv_lora_rank", "512", "256");
  refused<presets::deepseek_v2>(deepseek_v2, "qk_nope_head_dim", "128", "64");
  refused<presets::deepseek_v2>(deepseek_v2, "qk_rope_head_dim", "64", "128");
  refused<presets::deepseek_v2>(deepseek_v2, "v_head_dim", "128", "64");
  refused<presets::deepseek_v3>(deepseek_v3, "scoring_func", "\"sigmoid\"", "\"softmax\"",
                                "sigmoid");
  refused<presets::deepseek_v3>(deepseek_v3, "norm_topk_prob", "true", "false");
  refused<presets::deepseek_v3>(deepseek_v3, "routed_scaling_factor", "2.5", "1.5");

  refused<presets::qwen1_5_moe_a2_7b>(qwen1_5_moe, "rope_theta", "1000000.0", "10000", "1e+06");
  refused<presets::qwen1_5_moe_a2_7b>(qwen1_5_moe, "num_experts", "60", "64");
  refused<presets::qwen1_5_moe_a2_7b>(qwen1_5_moe, "shared_expert_intermediate_size", "5632",
                                      "1408");
  refused<presets::qwen3_30b_a3b>(qwen3_30b, "norm_topk_prob", "true", "false");
  refused<presets::qwen3_30b_a3b>(qwen3_30b, "head_dim", "128", "64");
  refused<presets::qwen3_30b_a3b>(qwen3_30b, "num_key_value_heads", "4", "8");
  refused<presets::olmoe_1b_7b>(olmoe, "rms_norm_eps", "1e-05", "1e-06");
  refused<presets::olmoe_1b_7b>(olmoe, "intermediate_size", "1024", "1408");
  refused<presets::dots_llm1>(dots_llm1, "scoring_func", "\"noaux_tc\"", "\"softmax\"", "sigmoid");
  refused<presets::glm_4_5>(glm_4_5, "partial_rotary_factor", "0.5", "0.25");
  refused<presets::glm_4_5>(glm_4_5, "attention_bias", "true", "false");
  refused<presets::glm_4_5>(glm_4_5, "use_qk_norm", "true", "false");
  refused<presets::glm_4_7_flash>(glm_4_7_flash, "qk_nope_head_dim", "192", "128");
  refused<presets::glm_4_7_flash>(glm_4_7_flash, "routed_scaling_factor", "1.8", "2.5");
  refused<presets::glm_4_7_flash>(glm_4_7_flash, "q_lora_rank", "768", "1536");
  refused<presets::minimax_m2>(minimax_m2, "rotary_dim", "64", "128");
  refused<presets::mixtral_8x7b>(mixtral, "num_local_experts", "8", "4");
  CHECK(of<presets::mixtral_8x7b>(with(mixtral, "1000000.0", "\"1e+06\"")) ==
        lines{"rope_theta is \"1e+06\" in config.json, 1e+06 here"});  // a text, which it is not
}

TEST_CASE("a config's word on whether the head is the embedding's table is compared") {
  constexpr auto tied = [] {
    fg::architecture a = presets::qwen3_30b_a3b;
    a.tied = true;
    return a;
  }();
  CHECK(of<tied>(with(qwen3_30b, "\"tie_word_embeddings\": false",
                      "\"tie_word_embeddings\": true")) == lines{});
  CHECK(of<tied>(qwen3_30b) == lines{"tie_word_embeddings is false in config.json, true here"});
  CHECK(of<tied>(with(qwen3_30b, "\"tie_word_embeddings\": false,", "")) ==
        lines{"tie_word_embeddings is false by default, true here"});
  CHECK(differences<fg::embedding<151936, 2048>>(qwen3_30b) == lines{});  // a part alone
}

TEST_CASE("a config that says what no stage here computes is refused") {
  refused<presets::deepseek_moe_16b>(deepseek_16b, "tie_word_embeddings", "false", "true");
  refused<presets::deepseek_moe_16b>(deepseek_16b, "attention_bias", "false", "true");
  refused<presets::olmoe_1b_7b>(olmoe, "clip_qkv", "null", "8");
  refused<presets::mixtral_8x7b>(mixtral, "sliding_window", "null", "4096");
  CHECK(of<presets::qwen1_5_moe_a2_7b>(
            with(qwen1_5_moe, "\"use_sliding_window\": false", "\"use_sliding_window\": true")) ==
        lines{"sliding_window is 32768 in config.json, which no stage here has"});
  CHECK(of<presets::deepseek_v2>(and_also(deepseek_v2, "\"rope_interleave\": false")) ==
        lines{"rope_interleave is false in config.json, true here"});
  auto const also = [](char const* member, char const* line) {
    CHECK(of<presets::mixtral_8x7b>(and_also(mixtral, member)) == lines{line});
  };
  also(R"("partial_rotary_factor": 0.5)", "partial_rotary_factor is 0.5 in config.json, 1 here");
  also(R"("rotary_dim": 64)", "rotary_dim is 64 in config.json, 128 here");
  also(R"("index_topk": 2048)", "index_topk is 2048 in config.json, which no stage here has");
  also(R"("llama_4_scaling_beta": 0.1)",
       "llama_4_scaling_beta is 0.1 in config.json, which no stage here has");
  also(R"("attn_logit_softcapping": 50.0)",
       "attn_logit_softcapping is 50 in config.json, which no stage here has");
  also(R"("final_logit_softcapping": 30)",
       "final_logit_softcapping is 30 in config.json, which no stage here has");
  also(R"("swiglu_limit": Infinity)", "swiglu_limit is Infinity in config.json, 0 here");
  also(R"("layer_types": ["full_attention", "sliding_attention"])",
       "layer_types.1 is sliding_attention in config.json, full_attention here");
  also(R"("norm_topk_prob": false)", "norm_topk_prob is false in config.json, true here");
  also(R"("scoring_func": "sigmoid")", "scoring_func is sigmoid in config.json, softmax here");
  also(R"("topk_method": "another")", "topk_method is another in config.json, greedy here");
  also(R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0})",
       "rope_scaling.rope_type is llama3 in config.json, default here");
}

TEST_CASE("a window counts where a layer may have it") {
  std::string const windowed =
      with(dots_llm1, "\"sliding_window\": null", "\"sliding_window\": 4096");
  lines const none{"sliding_window is 4096 in config.json, which no stage here has"};
  auto const types = [](char const* list) { return "\"layer_types\": " + std::string(list); };
  CHECK(of<presets::dots_llm1>(windowed) == none);
  CHECK(of<presets::dots_llm1>(
            and_also(windowed, types(R"(["full_attention", "full_attention"])"))) == lines{});
  CHECK(of<presets::dots_llm1>(
            and_also(windowed, types(R"(["full_attention", "sliding_attention"])"))) ==
        lines{"layer_types.1 is sliding_attention in config.json, full_attention here"});
  CHECK(of<presets::dots_llm1>(and_also(windowed, types("[]"))) == none);
  // transformers does not ask layers in these.
  CHECK(of<presets::mixtral_8x7b>(
            and_also(with(mixtral, "\"sliding_window\": null", "\"sliding_window\": 4096"),
                     types(R"(["full_attention"])"))) == none);
}

TEST_CASE("of a model of images too, the text's config is compared") {
  for (char const* const place : {"text_config", "language_config"}) {
    auto const around = [&](std::string const& text) {
      return R"({"model_type": "another", "hidden_size": 1, "vision_config": {"hidden_size": 7}, ")" +
             std::string(place) + "\": " + text + ", \"tie_word_embeddings\": false}";
    };
    CHECK(of<presets::qwen3_30b_a3b>(around(qwen3_30b)) == lines{});
    CHECK(of<presets::deepseek_v3>(around(deepseek_v3)) == lines{});
    CHECK(of<presets::qwen3_30b_a3b>(
              around(with(qwen3_30b, "\"num_experts\": 128", "\"num_experts\": 64"))) ==
          lines{"num_experts is 64 in config.json, 128 here"});
    CHECK(of<presets::deepseek_v3>(around(with(deepseek_v3, "\"scoring_func\": \"sigmoid\"",
                                               "\"scoring_func\": \"softmax\""))) ==
          lines{"scoring_func is softmax in config.json, sigmoid here"});
  }
}

TEST_CASE("positions are as newer configs have them too, slowed or not") {
  std::string const newer =
      with(qwen3_30b, R"("rope_scaling": null,
  "rope_theta": 1000000.0)",
           R"("rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"})");
  CHECK(of<presets::qwen3_30b_a3b>(newer) == lines{});
  CHECK(of<presets::qwen3_30b_a3b>(with(newer, "1000000.0", "10000000")) ==
        lines{"rope_parameters.rope_theta is 1e+07 in config.json, 1e+06 here"});

  static constexpr fg::architecture longer = [] {
    fg::architecture a = presets::qwen3_30b_a3b;
    a.attention.yarn = {.factor = 4, .original = 32768};
    return fg::checked(a);
  }();
  CHECK(of<longer>(qwen3_30b) == lines{"rope_scaling.rope_type is null by default, yarn here"});
  CHECK(of<longer>(newer) ==
        lines{"rope_parameters.rope_type is default in config.json, yarn here"});
  std::string const slowed =
      with(qwen3_30b, R"("rope_scaling": null)",
           R"("rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768,
               "rope_type": "yarn"})");
  CHECK(of<longer>(slowed) == lines{});
  static constexpr fg::architecture larger = [] {
    fg::architecture a = longer;
    a.attention.yarn.mscale = 0.5f;
    return fg::checked(a);
  }();
  CHECK(of<larger>(with(slowed, R"("factor": 4.0)", R"("factor": 4.0, "mscale": 0.5)")) ==
        lines{"the mscale of qwen3_moe counts only beside an mscale_all_dim, here it does alone"});
  CHECK(of<presets::qwen3_30b_a3b>(slowed) ==
        lines{"rope_scaling.rope_type is yarn in config.json, default here"});
  CHECK(of<longer>(with(slowed, R"("original_max_position_embeddings": 32768,)", "")) ==
        lines{"rope_scaling.original_max_position_embeddings is 40960 by default, 32768 here"});
  // transformers moves what stands at the top into the place of theirs,
  std::string const original = R"("original_max_position_embeddings": 32768)";
  CHECK(of<longer>(and_also(slowed, R"("original_max_position_embeddings": 4096)")) ==
        lines{"original_max_position_embeddings is 4096 in config.json, 32768 here"});
  CHECK(of<longer>(and_also(with(slowed, original, R"("original_max_position_embeddings": 1)"),
                            original)) == lines{});
  CHECK(of<longer>(and_also(with(slowed, original + ',', ""), original)) == lines{});
  // but reads their own theta, if there is one, and their rope_type before their type.
  CHECK(of<longer>(and_also(with(slowed, "4.0", "4, \"rope_theta\": 5"), "\"a\": 1")) ==
        lines{"rope_scaling.rope_theta is 5 in config.json, 1e+06 here"});
  CHECK(of<presets::qwen3_30b_a3b>(
            and_also(with(newer, "1000000.0", "10000000"), R"("rope_theta": 1000000.0)")) ==
        lines{"rope_parameters.rope_theta is 1e+07 in config.json, 1e+06 here"});
  CHECK(of<longer>(with(slowed, "4.0", "4, \"type\": \"linear\"")) == lines{});
  CHECK(
      of<presets::qwen3_30b_a3b>(with(newer, "\"rope_type\": \"default\"", "\"type\": \"yarn\"")) ==
      lines{"rope_parameters.type is yarn in config.json, default here"});
  CHECK(of<longer>(with(slowed, R"("factor": 4.0,)", R"("beta_slow": 2, "truncate": false,)")) ==
        lines{"rope_scaling.factor is null by default, 4 here",
              "rope_scaling.beta_slow is 2 in config.json, 1 here",
              "rope_scaling.truncate is false in config.json, true here"});
  CHECK(of<longer>(with(slowed, "4.0", "4, \"attention_factor\": 1.5")) ==
        lines{"rope_scaling.attention_factor is 1.5 in config.json, which no stage here has"});
}

TEST_CASE("positions that a config has by kinds of layers are those of layers without a window") {
  std::string const by_kind = with(qwen3_30b, R"("rope_scaling": null,
  "rope_theta": 1000000.0)",
                                   R"("layer_types": ["full_attention", "full_attention"],
  "rope_parameters": {"full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 5.0, "rope_type": "default"}, "rope_theta": 7.0})");
  CHECK(of<presets::qwen3_30b_a3b>(by_kind) == lines{});
  CHECK(of<presets::qwen3_30b_a3b>(with(by_kind, "1000000.0", "500000")) ==
        lines{"rope_parameters.rope_theta is 5e+05 in config.json, 1e+06 here"});
  CHECK(of<presets::qwen3_30b_a3b>(with(by_kind, R"(000.0, "rope_type": "default")",
                                        R"(000.0, "rope_type": "linear", "factor": 2)")) ==
        lines{"rope_parameters.rope_type is linear in config.json, default here"});
}

TEST_CASE("weights of one expert are renormalised too, and then are 1") {
  static constexpr fg::architecture one = [] {
    fg::architecture a = presets::qwen3_30b_a3b;
    a.moe.top_k = 1;
    a.moe.renormalise = false;
    return fg::checked(a);
  }();
  static constexpr fg::architecture constant = [] {
    fg::architecture a = one;
    a.moe.renormalise = a.moe.constant_weight = true;
    return fg::checked(a);
  }();
  std::string const to_one =
      with(qwen3_30b, R"("num_experts_per_tok": 8)", R"("num_experts_per_tok": 1)");
  std::string const as_it_is =
      with(to_one, R"("norm_topk_prob": true)", R"("norm_topk_prob": false)");
  CHECK(of<one>(to_one) == lines{"norm_topk_prob is true in config.json, false here"});
  CHECK(of<constant>(to_one) == lines{});
  CHECK(of<one>(as_it_is) == lines{});
  CHECK(of<constant>(as_it_is) == lines{"norm_topk_prob is false in config.json, true here"});
}

TEST_CASE("what a family always does is compared where its config has no word for it") {
  static constexpr fg::architecture plain = [] {
    fg::architecture a = presets::mixtral_8x7b;
    a.moe.renormalise = false;
    a.moe.score = fg::score::sigmoid;
    a.moe.scale = 2;
    a.moe.groups = 4;
    a.moe.group_limit = 2;
    return fg::checked(a);
  }();
  lines const all{"scoring_func is softmax by default, sigmoid here",
                  "norm_topk_prob is true by default, false here",
                  "routed_scaling_factor is 1 by default, 2 here",
                  "topk_method is greedy by default, group_limited_greedy here"};
  CHECK(of<plain>(mixtral) == all);
  // Of a family that nobody knows nothing is said that its config does not say.
  CHECK(of<plain>(with(mixtral, "\"mixtral\"", "\"another\"")) == lines{});
  CHECK(of<plain>(with(mixtral, "\"mixtral\"", "\"qwen3_vl_moe_text\"")) == all);
  CHECK(of<plain>(with(mixtral, "\"mixtral\"", "\"mellum\"")) == lines{all[0], all[2], all[3]});
  using layer = fg::mixture<plain.moe>;
  CHECK(differences<layer>(with(mixtral, "\"mixtral\"", "\"qwen3_5_moe_text\"")) == all);
  CHECK(differences<layer>(with(mixtral, "\"mixtral\"", "\"qwen3_next\"")) ==
        lines{all[0], all[2], all[3]});
  CHECK(of<presets::glm_4_5>(with(glm_4_5, R"("partial_rotary_factor": 0.5,)", "")) ==
        lines{});  // 0.5 too
  static constexpr fg::architecture unlimited = [] {
    fg::architecture a = presets::deepseek_v3;
    a.moe.groups = a.moe.group_limit = 1;
    a.moe.score = fg::score::softmax;
    return fg::checked(a);
  }();
  std::string const native = with(with(deepseek_v3, R"("scoring_func": "sigmoid",)", ""),
                                  R"("topk_method": "noaux_tc",)", "");
  CHECK(of<presets::deepseek_v3>(native) == lines{});
  for (std::string_view const family : {"\"deepseek_v3\"", "\"glm4_moe_lite\""})
    CHECK(of<unlimited>(with(native, "\"deepseek_v3\"", family)) ==
          lines{"scoring_func is sigmoid by default, softmax here",
                "topk_method is noaux_tc by default, greedy here"});
  // Groups that limit nothing.
  CHECK(of<unlimited>(with(deepseek_v3, "\"topk_group\": 4", "\"topk_group\": 8")) ==
        lines{"scoring_func is sigmoid in config.json, softmax here"});
  CHECK(of<presets::deepseek_v3>(with(deepseek_v3, "\"topk_group\": 4", "\"topk_group\": 8")) ==
        lines{"topk_group is 8 in config.json, 4 here"});
}

TEST_CASE("what a config does not say is what transformers takes for its family") {
  auto const without = [](std::string text, std::string const& member) {
    std::string const words = member + ", ", end = ", " + member;
    std::size_t const at = text.find(words);
    return at != text.npos ? text.erase(at, words.size()) : with(text, end, "");
  };
  CHECK(of<presets::qwen3_30b_a3b>(without(qwen3_30b, R"("norm_topk_prob": true)")) ==
        lines{"norm_topk_prob is false by default, true here"});
  CHECK(of<presets::qwen3_30b_a3b>(without(qwen3_30b, R"("rope_theta": 1000000.0)")) ==
        lines{"rope_theta is 10000 by default, 1e+06 here"});
  // A null in a default's place is another: transformers has no number then, or what is false.
  CHECK(of<presets::qwen3_30b_a3b>(
            with(qwen3_30b, R"("norm_topk_prob": true)", R"("norm_topk_prob": null)")) ==
        lines{"norm_topk_prob is null in config.json, true here"});
  CHECK(of<presets::deepseek_v3>(
            with(deepseek_v3, R"("norm_topk_prob": true)", R"("norm_topk_prob": null)")) ==
        lines{"norm_topk_prob is null in config.json, true here"});
  CHECK(of<presets::deepseek_v3>(and_also(deepseek_v3, R"("rope_interleave": null)")) ==
        lines{"rope_interleave is null in config.json, true here"});
  CHECK(of<presets::glm_4_5>(
            with(glm_4_5, R"("partial_rotary_factor": 0.5)", R"("partial_rotary_factor": null)")) ==
        lines{"partial_rotary_factor is null in config.json, 0.5 here"});
  std::string const groups = with(moonlight, R"("n_group": 1)", R"("n_group": null)");
  CHECK(
      of<presets::moonlight_16b_a3b>(with(groups, R"("topk_group": 1)", R"("topk_group": null)")) ==
      lines{"topk_method is noaux_tc in config.json, greedy here"});
  CHECK(of<presets::mixtral_8x7b>(without(mixtral, R"("rms_norm_eps": 1e-05)")) == lines{});
  static constexpr fg::architecture three = [] {
    fg::architecture a = presets::mixtral_8x7b;
    a.moe.top_k = 3;
    return fg::checked(a);
  }();
  std::string const unsaid = with(mixtral, R"("num_experts_per_tok": 2,)", "");
  CHECK(of<presets::mixtral_8x7b>(unsaid) == lines{});
  CHECK(of<three>(unsaid) == lines{"num_experts_per_tok is 2 by default, 3 here"});
  CHECK(of<three>(with(unsaid, "\"mixtral\"", "\"another\"")) == lines{});
  // There is no default of these.
  CHECK(of<presets::dots_llm1>(with(dots_llm1, R"("num_experts_per_tok": 6,)", "")) ==
        lines{"num_experts_per_tok is missing in config.json, 6 here"});
  CHECK(of<presets::deepseek_v3>(without(deepseek_v3, R"("routed_scaling_factor": 2.5)")) ==
        lines{});
  CHECK(of<presets::deepseek_v3>(without(deepseek_v3, R"("n_group": 8)")) == lines{});
  CHECK(of<presets::moonlight_16b_a3b>(without(moonlight, R"("routed_scaling_factor": 2.446)")) ==
        lines{"routed_scaling_factor is 2.5 by default, 2.446 here"});
  CHECK(of<presets::granite_3_1_1b_a400m>(without(granite, R"("embedding_multiplier": 12.0)")) ==
        lines{"embedding_multiplier is 1 by default, 12 here"});
}

TEST_CASE("a stage that a family has otherwise than any here is refused, and its others are read") {
  std::string const phimoe = with(mixtral, "\"mixtral\"", "\"phimoe\"");
  using layer = fg::mixture<fg::profiles::mixtral(presets::mixtral_8x7b.moe)>;
  lines const router{
      "the router of phimoe chooses and weighs one expert after the other (SparseMixer), which no "
      "stage here does"};
  CHECK(differences<layer>(phimoe) == router);
  CHECK(of<presets::mixtral_8x7b>(phimoe) == router);
  constexpr fg::attention_form form{.theta = 1e6};
  CHECK(differences<fg::attention<4096, 32, 8, 128, form>>(phimoe) == lines{});
  CHECK(differences<fg::mlp<4096, 14336>>(phimoe) == lines{});

  constexpr fg::config c{
      .hidden = 64, .width = 96, .routed = 8, .top_k = 3, .shared = 1, .renormalise = true};
  std::string const hunyuan = R"({
    "attention_bias": false, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 96, "max_position_embeddings": 256, "model_type": "hunyuan_v1_moe",
    "moe_topk": 3, "num_attention_heads": 4, "num_experts": 8, "num_hidden_layers": 3,
    "num_key_value_heads": 2, "num_shared_expert": 1, "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": false, "vocab_size": 500})";
  CHECK(differences<fg::mixture<c>>(hunyuan) == lines{});
  constexpr fg::attention_form each{.norm = fg::head_norm::each, .epsilon = 1e-5};
  CHECK(differences<fg::attention<64, 4, 2, 16, each>>(hunyuan) ==
        lines{"the attention of hunyuan_v1_moe norms queries and keys behind their rotation, which "
              "no stage here does"});
  auto const topk = [&](std::string_view others) {
    return differences<fg::mixture<c>>(with(hunyuan, "\"moe_topk\": 3", others));
  };
  CHECK(topk("\"moe_topk\": 4") == lines{"moe_topk is 4 in config.json, 3 here"});
  CHECK(topk("\"moe_topk\": [3, 3, 3]") == lines{});
  CHECK(topk("\"moe_topk\": [3, 4, 3]") == lines{"moe_topk.1 is 4 in config.json, 3 here"});
  CHECK(topk("\"top_k\": 3") == lines{"moe_topk is 1 by default, 3 here"});
  constexpr auto as_is = [](fg::config other) {
    other.renormalise = false;
    return other;
  };
  CHECK(differences<fg::mixture<as_is(c)>>(hunyuan) ==
        lines{"norm_topk_prob is true by default, false here"});
}

TEST_CASE("which layers are dense is compared, of a whole model, in each family's words") {
  refused<presets::deepseek_v3>(deepseek_v3, "first_k_dense_replace", "3", "2");
  refused<presets::deepseek_v3>(deepseek_v3, "moe_layer_freq", "1", "2");
  refused<presets::deepseek_v3>(deepseek_v3, "intermediate_size", "18432", "18433");
  refused<presets::deepseek_v3>(deepseek_v3, "num_key_value_heads", "128", "8");
  // a list has a value for each layer
  CHECK(of<presets::deepseek_v3>(with(deepseek_v3, R"("num_key_value_heads": 128)",
                                      R"("num_key_value_heads": [128, 8, 128])")) ==
        lines{"num_key_value_heads.1 is 8 in config.json, 128 here"});
  CHECK(of<presets::deepseek_v3>(with(deepseek_v3, R"("num_key_value_heads": 128)",
                                      R"("num_key_value_heads": [128, 128])")) == lines{});
  refused<presets::qwen3_30b_a3b>(qwen3_30b, "decoder_sparse_step", "1", "2");
  CHECK(of<presets::qwen3_30b_a3b>(
            with(qwen3_30b, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [0]")) ==
        lines{"mlp_only_layers.0 is 0 in config.json, which no stage here has"});
  constexpr auto begun = [] {
    fg::architecture a = presets::qwen3_30b_a3b;
    a.dense_layers = 2, a.dense_width = 6144;
    return fg::checked(a);
  }();
  lines const none{"mlp_only_layers.0 is missing in config.json, 0 here"};
  CHECK(of<begun>(with(qwen3_30b, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [0, 1]")) ==
        lines{});
  CHECK(of<begun>(with(qwen3_30b, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [0]")) ==
        lines{"mlp_only_layers.1 is missing in config.json, 1 here"});
  CHECK(of<begun>(qwen3_30b) == none);
  CHECK(of<begun>(with(qwen3_30b, "\"mlp_only_layers\": [],", "")) == none);
  CHECK(of<begun>(with(qwen3_30b, "\"mlp_only_layers\": []", "\"mlp_only_layers\": null")) == none);
  CHECK(of<presets::glm_4_7_flash>(
            and_also(glm_4_7_flash, R"("mlp_layer_types": ["dense", "dense", "sparse"])")) ==
        lines{"mlp_layer_types.1 is dense in config.json, sparse here",
              "mlp_layer_types.3 is missing in config.json, sparse here"});
  CHECK(differences<fg::moe_block<presets::deepseek_v3>>(deepseek_v3) == lines{});  // a part alone
}

TEST_CASE("of DeepSeek-V4's config a mixture compares what is of mixtures") {
  constexpr fg::config flash = fg::profiles::deepseek_v4({.hidden = 4096,
                                                          .width = 2048,
                                                          .routed = 256,
                                                          .top_k = 6,
                                                          .shared = 1,
                                                          .scale = 1.5f,
                                                          .act = {fg::activation::swiglu, 10}});
  CHECK(differences<fg::mixture<flash>>(deepseek_v4_flash) == lines{});
  CHECK(differences<fg::mixture<flash.by_id(129280)>>(deepseek_v4_flash) == lines{});
  CHECK(differences<fg::mixture<flash>>(
            with(deepseek_v4_flash, R"("swiglu_limit": 10.0)", R"("swiglu_limit": 7)")) ==
        lines{"swiglu_limit is 7 in config.json, 10 here"});
  CHECK(differences<fg::mixture<flash>>(with(deepseek_v4_flash, "1.5", "2.5")) ==
        lines{"routed_scaling_factor is 2.5 in config.json, 1.5 here"});
}

TEST_CASE(
    "of ERNIE 4.5's config a mixture compares what is of mixtures, and attention turns "
    "neighbours") {
  constexpr fg::config sizes{.hidden = 2560, .width = 1536, .routed = 64, .top_k = 6, .shared = 2};
  using layer = fg::mixture<fg::profiles::ernie_4_5(sizes)>;
  CHECK(differences<layer>(ernie_4_5) == lines{});
  CHECK(differences<fg::mixture<sizes>>(ernie_4_5) ==
        lines{"norm_topk_prob is true by default, false here"});
  for (auto [words, others, line] :
       {std::tuple{"\"moe_k\": 6", "\"moe_k\": 8", "moe_k is 8 in config.json, 6 here"},
        {"\"moe_num_experts\": 64", "\"moe_num_experts\": 32",
         "moe_num_experts is 32 in config.json, 64 here"},
        {"\"moe_num_shared_experts\": 2", "\"moe_num_shared_experts\": 1",
         "moe_num_shared_experts is 1 in config.json, 2 here"},
        {"1e-12", "1e-10", "moe_norm_min is 1e-10 in config.json, 1e-12 here"}})
    CHECK(differences<layer>(with(ernie_4_5, words, others)) == lines{line});
  constexpr fg::attention_form form{.theta = 5e5};
  CHECK(differences<fg::attention<2560, 20, 4, 128, form>>(ernie_4_5) ==
        lines{"rope_interleave is true by default, false here"});
  constexpr fg::attention_form neighbours{.adjacent = true, .theta = 5e5};
  CHECK(differences<fg::attention<2560, 20, 4, 128, neighbours>>(ernie_4_5) == lines{});
  CHECK(differences<fg::attention<4096, 32, 8, 128, neighbours>>(
            with(mixtral, "1000000.0", "500000")) ==
        lines{"rope_interleave is false by default, true here"});
  using presets::ernie_4_5_21b_a3b;
  CHECK(of<ernie_4_5_21b_a3b>(ernie_4_5) == lines{});
  refused<ernie_4_5_21b_a3b>(ernie_4_5, "moe_layer_start_index", "1", "2");
  refused<ernie_4_5_21b_a3b>(ernie_4_5, "moe_layer_end_index", "27", "26");
  refused<ernie_4_5_21b_a3b>(ernie_4_5, "moe_layer_interval", "1", "2");
  CHECK(of<ernie_4_5_21b_a3b>(with(ernie_4_5, "\"moe_layer_end_index\": 27",
                                   "\"moe_layer_end_index\": -1")) == lines{});
}

TEST_CASE("each stage compares what it knows, and profiles are what they are profiles of") {
  using layer = fg::mixture<fg::profiles::mixtral(presets::mixtral_8x7b.moe)>;
  CHECK(differences<layer>(mixtral) == lines{});
  CHECK(differences<layer>(with(mixtral, "\"rope_theta\": 1000000.0", "\"rope_theta\": 1")) ==
        lines{});
  CHECK(differences<layer>(
            with(mixtral, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 1")) ==
        lines{"num_experts_per_tok is 1 in config.json, 2 here"});
  constexpr fg::config wider{
      .hidden = 4096, .width = 14336, .routed = 16, .top_k = 2, .renormalise = true};
  CHECK(differences<fg::mixture<wider, fg::linear<4096, 16>>>(mixtral) ==
        lines{"num_local_experts is 8 in config.json, 16 here"});
  CHECK(differences<fg::mlp<4096, 14336>>(with(mixtral, "silu", "gelu")) ==
        lines{"hidden_act is gelu in config.json, silu here"});
  using bounded = fg::mlp<4096, 14336, fg::glu{fg::activation::swiglu, 7}>;
  std::string const limited = and_also(mixtral, R"("swiglu_limit": 7.0)");
  CHECK(differences<bounded>(limited) == lines{});
  CHECK(differences<bounded>(and_also(limited, R"("swiglu_limits": [7.0, 7, 0])")) ==
        lines{"swiglu_limits.2 is 0 in config.json, 7 here"});
  CHECK(
      differences<bounded>(with(limited, "\"mixtral\"", "\"gpt_oss\"")) ==
      lines{"the feed-forward block of gpt_oss is a SwiGLU of its own, whose up is one more, which "
            "no stage here does"});
  CHECK(differences<bounded>(mixtral) == lines{"swiglu_limit is 0 by default, 7 here"});
  CHECK(differences<fg::mlp<4096, 8>>(mixtral) ==
        lines{"intermediate_size is 14336 in config.json, 8 here"});
  CHECK(differences<fg::linear<3, 4>>(mixtral) == lines{});
  CHECK(differences<fg::rmsnorm<4096>>(mixtral) ==
        lines{"rms_norm_eps is 1e-05 in config.json, 1e-06 here"});
}

TEST_CASE("what is no config is refused in a sentence") {
  folder const here;
  auto const refused = [&](std::string const& text, char const* why) {
    INFO(text);
    put(here / "c.json", text);
    CHECK_THROWS_WITH(fg::check_published<tiny::decoder>(here / "c.json"), ContainsSubstring(why));
  };
  refused("", "the config does not begin with {");
  refused("[]", "the config does not begin with {, at byte 0");
  refused("{}}", "goes on after its closing }");
  refused("{\"a\": }", "a number is missing, at byte 6");
  refused("{\"a\": 1e999}", "none that an f64 holds");
  refused("{\"a\": nul}", "a number is missing");
  refused("{\"a\": 01}", "a number begins with 0, at byte 6");
  refused("{\"a\": -01}", "a number begins with 0, at byte 7");
  refused("{\"a\": 1.}", "a digit is missing after a point, at byte 8");
  refused("{\"a\": 1.e5}", "a digit is missing after a point, at byte 8");
  refused("{\"a\": 1e}", "a , or } is missing, at byte 7");
  refused("{\"a\": 1, \"a\": 1}", "a name occurs twice, at byte 9");
  refused("{\"a\": {\"b\": 1}, \"a\": {\"c\": 1}}", "a name occurs twice, at byte 16");
  refused("{\"a\": {}, \"\\u0061\": 1}", "a name occurs twice, at byte 10");
  refused("{\"a\": {\"b\": 1}, \"a.b\": 2}", "a name occurs twice");
  refused("{\"a\": " + std::string(40, '[') + "}", "nested too deeply");
  CHECK_THROWS_WITH(fg::check_published<tiny::decoder>(here / "none"),
                    ContainsSubstring("cannot open"));
  for (std::size_t n = 0; n < mixtral.size(); ++n) refused(mixtral.substr(0, n), ", at byte ");
}

TEST_CASE("no config takes memory far beyond its size") {
  folder const here;
  auto const refused = [&](std::string const& text, char const* why) {
    put(here / "c.json", text);
    CHECK_THROWS_WITH(fg::check_published<tiny::decoder>(here / "c.json"), ContainsSubstring(why));
  };
  std::string ones = "1";
  while (ones.size() < 60'000) ones += ",1";
  auto const named = [&](std::size_t n) {
    return "{\"" + std::string(n, 'n') + "\": [" + ones + "]}";
  };
  refused(named(60'000), "the names of the config's values take over 16 MB, at byte 60");
  refused(named(1'000'000), "a text of over 1 MB: ");
  put(here / "c.json", named(60));
  CHECK_NOTHROW(fg::check_published<tiny::decoder>(here / "c.json"));

  // The text's model within itself.
  std::string text = named(60);
  for (int i = 0; i < 20; ++i) text = "{\"text_config\": " + text + "}";
  auto const all = fg::detail::of_text_model(fg::detail::config_reader<>(text, "c").read());
  CHECK(all.size() == (ones.size() + 1) / 2);
}

TEST_CASE("weights are read where the config beside them says the same, or one that is named") {
  using network = fg::network<tiny::decoder, fg::basic_reference<float>>;
  using reader = fg::frozen<tiny::decoder, fg::cpu, fg::format::f32>;
  folder const here;
  network const from({.deviation = 0.5, .seed = 1});
  std::vector<float> numbers(from.parameters().begin(), from.parameters().end());
  std::vector<fg::tensor_view> tensors;
  for (auto const& entry : from.entries())
    tensors.push_back({fg::deepseek_name(entry.name), fg::dtype::f32, fg::tensor_shape(entry),
                       numbers.data() + entry.offset});
  fg::write_safetensors(here / "model.safetensors", tensors);

  network net;
  std::vector<float> const before(net.parameters().begin(), net.parameters().end());
  auto const is_as_before = [&] {
    return std::equal(before.begin(), before.end(), net.parameters().begin());
  };
  std::string const theta = "rope_theta is 5 in config.json, 10000 here";
  put(here / "config.json", "{\"rope_theta\": 5}");
  put(here / "right.json", "{\"rope_theta\": 10000}");
  for (std::string const& path : {here.path, here / "model.safetensors"}) {
    CHECK_THROWS_WITH(fg::load_published(net, path), ContainsSubstring(theta));
    CHECK_THROWS_WITH(fg::load_published<reader>(path), ContainsSubstring(theta));
    CHECK(is_as_before());
  }
  CHECK_NOTHROW(fg::load_published<reader>(here.path, "", fg::deepseek_name, {}, ""));
  CHECK_NOTHROW(
      fg::load_published<reader>(here.path, "", fg::deepseek_name, {}, here / "right.json"));
  put(here / "wrong.json", "{\"rope_theta\": 5}");
  CHECK_THROWS_WITH(fg::load_published(net, here.path, "", fg::deepseek_name, here / "wrong.json"),
                    ContainsSubstring("rope_theta is 5 in wrong.json, 10000 here"));
  CHECK_THROWS_AS(fg::load_published(net, here.path, "", fg::deepseek_name, here / "none.json"),
                  fg::file_error);
  CHECK(is_as_before());
  fg::load_published(net, here.path, "", fg::deepseek_name, here / "right.json");
  CHECK_FALSE(is_as_before());

  // A layer whose stages the config says nothing else of.
  fg::network<fg::mixture<tiny::numbers.moe>, fg::basic_reference<float>> layer;
  CHECK_NOTHROW(fg::load_published(layer, here.path, "layers.1.mixture."));
  put(here / "config.json", "{\"num_experts_per_tok\": 3}");
  CHECK_THROWS_AS(fg::load_published(layer, here.path, "layers.1.mixture."), fg::mismatch);
}

TEST_CASE("what differs in a config and what in the tensors beside it is said in one error") {
  using network = fg::network<tiny::decoder, fg::basic_reference<float>>;
  using reader = fg::frozen<tiny::decoder, fg::cpu, fg::format::f32>;
  folder const here;
  network net({.deviation = 0.5, .seed = 1});
  std::vector<float> numbers(net.parameters().begin(), net.parameters().end());
  std::vector<fg::tensor_view> tensors;
  for (auto const& entry : net.entries())
    if (entry.name != "rmsnorm.gain")
      tensors.push_back({fg::deepseek_name(entry.name), fg::dtype::f32, fg::tensor_shape(entry),
                         numbers.data() + entry.offset});
  fg::write_safetensors(here / "model.safetensors", tensors);
  put(here / "config.json", "{\"rope_theta\": 5}");
  std::string const both =
      "/model.safetensors holds another model (differences: 2): rope_theta is 5 in config.json, "
      "10000 here; model.norm.weight, here rmsnorm.gain, is missing";
  CHECK_THROWS_WITH(fg::load_published(net, here.path), ContainsSubstring(both));
  CHECK_THROWS_WITH(fg::load_published<reader>(here.path), ContainsSubstring(both));
  CHECK(std::equal(numbers.begin(), numbers.end(), net.parameters().begin()));
  // A wrong call is said before what the files have.
  CHECK_THROWS_AS(fg::load_published(net, here.path, "nowhere."), fg::invalid_argument);
}
