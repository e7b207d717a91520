// published_defaults: what transformers takes where the config.json of a family has no word.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

struct family_defaults {
  std::string_view family;  // a model_type
  std::string_view values;  // a config's text
};
inline constexpr std::string_view granite_defaults = R"({
      "attention_multiplier": 1.0, "embedding_multiplier": 1.0, "hidden_act": "silu",
      "logits_scaling": 1.0, "max_position_embeddings": 2048, "num_attention_heads": 32,
      "num_experts_per_tok": 2, "residual_multiplier": 1.0, "rms_norm_eps": 1e-06,
      "rope_theta": 10000.0, "tie_word_embeddings": false})";
/// Of the families that the library writes, and HunYuan: the keys of which tensors tell nothing. Those of
/// transformers 5.24; tests/golden/exchange.py compares them with the one that is installed.
inline constexpr family_defaults published_defaults[] = {
    {"deepseek_v2", R"({
      "first_k_dense_replace": 0, "hidden_act": "silu", "max_position_embeddings": 2048,
      "norm_topk_prob": false, "num_attention_heads": 32, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
      "routed_scaling_factor": 1.0, "tie_word_embeddings": false, "topk_method": "greedy",
      "v_head_dim": 128})"},
    {"deepseek_v3", R"({
      "first_k_dense_replace": 3, "hidden_act": "silu", "max_position_embeddings": 4096,
      "n_group": 8, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
      "rope_interleave": true, "rope_theta": 10000.0, "routed_scaling_factor": 2.5,
      "tie_word_embeddings": false, "topk_group": 4, "v_head_dim": 128})"},
    {"dots1", R"({
      "first_k_dense_replace": 0, "hidden_act": "silu", "max_position_embeddings": 2048,
      "n_group": 1, "norm_topk_prob": false, "num_attention_heads": 32, "rms_norm_eps": 1e-06,
      "rope_theta": 10000.0, "routed_scaling_factor": 1.0, "tie_word_embeddings": false,
      "topk_group": 1})"},
    {"ernie4_5_moe", R"({
      "hidden_act": "silu", "max_position_embeddings": 131072, "moe_k": 6,
      "moe_layer_start_index": 1, "moe_norm_min": 1e-12, "num_attention_heads": 20,
      "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true})"},
    {"glm4_moe", R"({
      "first_k_dense_replace": 1, "hidden_act": "silu", "max_position_embeddings": 131072,
      "n_group": 1, "norm_topk_prob": true, "num_attention_heads": 96, "num_experts_per_tok": 8,
      "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
      "routed_scaling_factor": 1.0, "tie_word_embeddings": false, "topk_group": 1})"},
    {"glm4_moe_lite", R"({
      "hidden_act": "silu", "max_position_embeddings": 202752, "n_group": 1,
      "norm_topk_prob": true, "num_attention_heads": 20, "num_experts_per_tok": 4,
      "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05,
      "rope_interleave": true, "rope_theta": 10000.0, "routed_scaling_factor": 1.8,
      "tie_word_embeddings": false, "topk_group": 1, "v_head_dim": 256})"},
    {"granitemoe", granite_defaults},
    {"granitemoeshared", granite_defaults},
    {"hunyuan_v1_moe", R"({
      "hidden_act": "silu", "max_position_embeddings": 2048, "moe_topk": 1,
      "num_attention_heads": 32, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
      "tie_word_embeddings": false})"},
    {"minimax_m2", R"({
      "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 196608,
      "num_attention_heads": 48, "num_experts_per_tok": 8, "rms_norm_eps": 1e-06,
      "rope_theta": 5000000.0, "tie_word_embeddings": false})"},
    {"mixtral", R"({
      "hidden_act": "silu", "max_position_embeddings": 131072, "num_attention_heads": 32,
      "num_experts_per_tok": 2, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
      "tie_word_embeddings": false})"},
    {"olmoe", R"({
      "hidden_act": "silu", "max_position_embeddings": 4096, "norm_topk_prob": false,
      "num_attention_heads": 16, "num_experts_per_tok": 8, "rms_norm_eps": 1e-05,
      "rope_theta": 10000.0, "tie_word_embeddings": false})"},
    {"qwen2_moe", R"({
      "decoder_sparse_step": 1, "hidden_act": "silu", "max_position_embeddings": 32768,
      "norm_topk_prob": false, "num_attention_heads": 16, "num_experts_per_tok": 4,
      "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false,
      "use_sliding_window": false})"},
    {"qwen3", R"({
      "head_dim": 128, "hidden_act": "silu", "max_position_embeddings": 32768,
      "num_attention_heads": 32, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
      "tie_word_embeddings": false, "use_sliding_window": false})"},
    {"qwen3_moe", R"({
      "decoder_sparse_step": 1, "hidden_act": "silu", "max_position_embeddings": 32768,
      "norm_topk_prob": false, "num_attention_heads": 32, "num_experts_per_tok": 8,
      "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": false,
      "use_sliding_window": false})"},
};
/// A family's; of an unknown one none.
constexpr std::string_view defaults_of(std::string_view family) {
  for (family_defaults const& known : published_defaults)
    if (known.family == family) return known.values;
  return "{}";
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
