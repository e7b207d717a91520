// published_families: whose models save_published can write whole, for transformers to load.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "published.hpp"

namespace finegrain::inline FINEGRAIN_ABI::families {

// Named as their config's model_type. Forms have the keys of published configs, and those which
// transformers has another default for.

/// DeepSeek-V2, V2-Lite. (Its norm_topk_prob, transformers does not read; it takes pairs of numbers that
/// stand behind others for complex ones, which of f32 must begin at an even place.)
inline constexpr published_family deepseek_v2{deepseek_name, R"({
  "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false,
  "first_k_dense_replace": "?", "intermediate_size": "? or none", "kv_lora_rank": "?",
  "model_type": "deepseek_v2", "moe_intermediate_size": "?", "moe_layer_freq": 1, "n_group": "?",
  "n_routed_experts": "?", "n_shared_experts": "?", "norm_topk_prob": false,
  "num_experts_per_tok": "?", "q_lora_rank": "?", "qk_nope_head_dim": "?", "qk_rope_head_dim": "?",
  "routed_scaling_factor": "?", "scoring_func": "softmax", "topk_group": "?", "topk_method": "?",
  "v_head_dim": "?"})",
                                              R"({"attention.latent": true,
  "hidden_size % num_attention_heads": 0, "kv_lora_rank % 2": 0, "moe.group_score": "max",
  "qk_nope_head_dim % 2": 0, "rope_interleave": true})"};

/// DeepSeek-V3, R1, Moonlight and Kimi K2.
inline constexpr published_family deepseek_v3{deepseek_name, R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false,
  "first_k_dense_replace": "?", "intermediate_size": "? or none", "kv_lora_rank": "?",
  "model_type": "deepseek_v3", "moe_intermediate_size": "?", "moe_layer_freq": 1, "n_group": "?",
  "n_routed_experts": "?", "n_shared_experts": "?", "norm_topk_prob": "?",
  "num_experts_per_tok": "?", "num_nextn_predict_layers": 0, "q_lora_rank": "?",
  "qk_nope_head_dim": "?", "qk_rope_head_dim": "?", "rope_interleave": true,
  "routed_scaling_factor": "?", "scoring_func": "sigmoid", "topk_group": "?",
  "topk_method": "noaux_tc", "v_head_dim": "?"})",
                                              R"({"attention.latent": true, "moe.bias": true})"};

/// GLM-4.7-Flash.
inline constexpr published_family glm4_moe_lite{deepseek_name, R"({
  "architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": false,
  "first_k_dense_replace": "?", "intermediate_size": "? or none", "kv_lora_rank": "?",
  "mlp_layer_types": "?", "model_type": "glm4_moe_lite", "moe_intermediate_size": "?",
  "n_group": "?", "n_routed_experts": "?", "n_shared_experts": "?", "norm_topk_prob": "?",
  "num_experts_per_tok": "?", "num_nextn_predict_layers": 0, "q_lora_rank": "?",
  "qk_nope_head_dim": "?", "qk_rope_head_dim": "?", "rope_interleave": true,
  "routed_scaling_factor": "?", "topk_group": "?", "topk_method": "noaux_tc", "v_head_dim": "?"})",
                                                R"({"attention.latent": true, "moe.bias": true})"};

/// GLM-4.5, 4.6, 4.7 and GLM-4.5-Air.
inline constexpr published_family glm4_moe{deepseek_name, R"({
  "architectures": ["Glm4MoeForCausalLM"], "attention_bias": "?", "first_k_dense_replace": "?",
  "head_dim": "?", "intermediate_size": "? or none", "model_type": "glm4_moe",
  "moe_intermediate_size": "?", "n_group": "?", "n_routed_experts": "?", "n_shared_experts": "?",
  "norm_topk_prob": "?", "num_experts_per_tok": "?", "num_nextn_predict_layers": 0,
  "partial_rotary_factor": "?", "routed_scaling_factor": "?", "topk_group": "?",
  "use_qk_norm": "?"})",
                                           R"({"attention.norm": "each", "moe.bias": true})"};

/// dots.llm1, whose word for a sigmoid is noaux_tc.
inline constexpr published_family dots1{deepseek_name, R"({
  "architectures": ["Dots1ForCausalLM"], "attention_bias": false, "first_k_dense_replace": "?",
  "head_dim": "?", "intermediate_size": "? or none", "model_type": "dots1",
  "moe_intermediate_size": "?", "n_group": "?", "n_routed_experts": "?", "n_shared_experts": "?",
  "norm_topk_prob": "?", "num_experts_per_tok": "?", "routed_scaling_factor": "?",
  "scoring_func": "noaux_tc", "sliding_window": null, "topk_group": "?",
  "topk_method": "noaux_tc"})",
                                        R"({"attention.norm": "each", "moe.bias": true,
  "use_qk_norm": true})"};

/// ERNIE 4.5's mixtures.
inline constexpr published_family ernie4_5_moe{ernie_4_5_name, R"({
  "architectures": ["Ernie4_5_MoeForCausalLM"], "head_dim": "?", "intermediate_size": "? or none",
  "model_type": "ernie4_5_moe", "moe_intermediate_size": "?", "moe_k": "?",
  "moe_layer_end_index": -1, "moe_layer_interval": 1, "moe_layer_start_index": "?",
  "moe_norm_min": "?", "moe_num_experts": "?", "moe_num_shared_experts": "?", "use_bias": false})",
                                               R"({"moe.bias": true, "rope_interleave": true})"};

/// MiniMax-M2, M2.5 and M2.7. (transformers divides rotary_dim by head_dim, and may then round down to
/// one less, unless the part is said too.)
inline constexpr published_family minimax_m2{minimax_m2_name, R"({
  "architectures": ["MiniMaxM2ForCausalLM"], "head_dim": "?", "intermediate_size": "?",
  "model_type": "minimax_m2", "num_experts_per_tok": "?", "num_local_experts": "?",
  "partial_rotary_factor": "?", "qk_norm_type": "per_layer", "rotary_dim": "?",
  "scoring_func": "sigmoid", "use_qk_norm": true, "use_routing_bias": true})",
                                             R"({"attention.norm": "all", "moe.bias": true})"};

inline constexpr published_family mixtral{mixtral_name, R"({
  "architectures": ["MixtralForCausalLM"], "head_dim": "?", "intermediate_size": "?",
  "model_type": "mixtral", "num_experts_per_tok": "?", "num_local_experts": "?",
  "sliding_window": null})"};

/// Granite 3's mixtures, and those with shared experts.
inline constexpr published_family granitemoe{granite_moe_name, R"({
  "architectures": ["GraniteMoeForCausalLM"], "attention_bias": false,
  "attention_multiplier": "?", "embedding_multiplier": "?", "head_dim": "?",
  "intermediate_size": "?", "logits_scaling": "?", "model_type": "granitemoe",
  "num_experts_per_tok": "?", "num_local_experts": "?", "residual_multiplier": "?"})"};
inline constexpr published_family granitemoeshared{granite_moe_name, R"({
  "architectures": ["GraniteMoeSharedForCausalLM"], "attention_bias": false,
  "attention_multiplier": "?", "embedding_multiplier": "?", "head_dim": "?",
  "intermediate_size": "?", "logits_scaling": "?", "model_type": "granitemoeshared",
  "num_experts_per_tok": "?", "num_local_experts": "?", "residual_multiplier": "?",
  "shared_intermediate_size": "? or none"})"};

/// (The gain of all queries' norm has hidden_size numbers in transformers.)
inline constexpr published_family olmoe{deepseek_name, R"({
  "architectures": ["OlmoeForCausalLM"], "attention_bias": false, "clip_qkv": null,
  "head_dim": "?", "intermediate_size": "?", "model_type": "olmoe", "norm_topk_prob": "?",
  "num_experts": "?", "num_experts_per_tok": "?"})",
                                        R"({"attention.norm": "all",
  "num_attention_heads * head_dim == hidden_size": true, "use_qk_norm": true})"};

/// Qwen1.5's and Qwen2's mixtures.
inline constexpr published_family qwen2_moe{qwen2_moe_name, R"({
  "architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1, "head_dim": "?",
  "intermediate_size": "? or none", "mlp_only_layers": "? or none", "model_type": "qwen2_moe",
  "moe_intermediate_size": "?", "norm_topk_prob": "?", "num_experts": "?",
  "num_experts_per_tok": "?", "qkv_bias": "?", "shared_expert_intermediate_size": "?",
  "sliding_window": null, "use_sliding_window": false})",
                                            R"({"moe.shared_gate": true})"};

/// Qwen3's mixtures.
inline constexpr published_family qwen3_moe{deepseek_name, R"({
  "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "decoder_sparse_step": 1,
  "head_dim": "?", "intermediate_size": "? or none", "mlp_only_layers": "? or none",
  "model_type": "qwen3_moe", "moe_intermediate_size": "?", "norm_topk_prob": "?",
  "num_experts": "?", "num_experts_per_tok": "?", "sliding_window": null,
  "use_sliding_window": false})",
                                            R"({"attention.norm": "each", "use_qk_norm": true})"};

/// Qwen3's dense models.
inline constexpr published_family qwen3{deepseek_name, R"({
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": "?",
  "intermediate_size": "?", "model_type": "qwen3", "sliding_window": null,
  "use_sliding_window": false})",
                                        R"({"attention.norm": "each", "use_qk_norm": true})"};

}  // namespace finegrain::inline FINEGRAIN_ABI::families
