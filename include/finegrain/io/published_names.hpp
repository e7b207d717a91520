// published_names: what families of published models call a decoder's weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

struct name_pair {
  std::string_view here, there;
};
/// The words in which models name a layer's feed-forward block and its parts.
struct feed_forward_words {
  std::string_view model = "model.", block = "mlp.", shared = "shared_experts.";
  std::string_view gate = "gate_proj.weight", up = "up_proj.weight", down = "down_proj.weight";
  std::string_view bias = "gate.e_score_correction_bias", table = "";
};

/// ERNIE 4.5's selection biases are matrices of one row.
inline constexpr std::string_view one_row_bias = "moe_statics.e_score_correction_bias";

inline std::string name_in(std::span<name_pair const> list, std::string_view ours,
                           std::string_view before = {}) {
  for (auto const& [here, there] : list)
    if (here == ours && !there.empty()) return std::string(before).append(there);
  return {};
}
/// "layers.3." of a name, taken off its front; empty if that is not what it begins with.
inline std::string_view take_numbered(std::string_view& name, std::string_view word) {
  if (!name.starts_with(word)) return {};
  std::string_view const taken = name.substr(0, name.find('.', word.size()) + 1);
  name.remove_prefix(taken.size());
  return taken;
}
/// The published name of a part of `mlp` or of a mixture.
inline std::string feed_forward_name(std::string_view ours, feed_forward_words const& words) {
  std::string_view const layer = take_numbered(ours, "layers.");
  if (layer.empty()) return {};
  std::string theirs(words.model);
  theirs.append(layer).append(words.block);
  for (std::string_view stage : {"mixture.", "mlp."})
    if (ours.starts_with(stage)) {
      ours.remove_prefix(stage.size());
      if (ours.starts_with("shared.")) {
        ours.remove_prefix(7);
        theirs.append(words.shared);
      } else {
        theirs.append(take_numbered(ours, "experts."));
      }
      name_pair const parts[] = {{"gate", words.gate},
                                 {"up", words.up},
                                 {"down", words.down},
                                 {"router", "gate.weight"},
                                 {"bias", words.bias},
                                 {"table", words.table},
                                 {"shared_gate", "shared_expert_gate.weight"},
                                 // all a layer's experts in one tensor
                                 {"experts.gate_up", "experts.gate_up_proj"},
                                 {"experts.down", "experts.down_proj"}};
      return name_in(parts, ours, theirs);
    }
  return {};
}

/// The published name of a decoder's weight.
inline std::string decoder_name(std::string_view ours, feed_forward_words const& words) {
  static constexpr name_pair model[] = {{"embedding.table", "model.embed_tokens.weight"},
                                        {"rmsnorm.gain", "model.norm.weight"},
                                        {"head.weight", "lm_head.weight"}};
  static constexpr name_pair block[] = {{"rmsnorm.gain", "input_layernorm.weight"},
                                        {"rmsnorm_2.gain", "post_attention_layernorm.weight"},
                                        {"attention.query", "self_attn.q_proj.weight"},
                                        {"attention.key", "self_attn.k_proj.weight"},
                                        {"attention.value", "self_attn.v_proj.weight"},
                                        {"attention.query_bias", "self_attn.q_proj.bias"},
                                        {"attention.key_bias", "self_attn.k_proj.bias"},
                                        {"attention.value_bias", "self_attn.v_proj.bias"},
                                        {"attention.query_norm", "self_attn.q_norm.weight"},
                                        {"attention.key_norm", "self_attn.k_norm.weight"},
                                        {"attention.q_proj", "self_attn.q_proj.weight"},
                                        {"attention.q_a", "self_attn.q_a_proj.weight"},
                                        {"attention.q_a_norm", "self_attn.q_a_layernorm.weight"},
                                        {"attention.q_b", "self_attn.q_b_proj.weight"},
                                        {"attention.kv_a", "self_attn.kv_a_proj_with_mqa.weight"},
                                        {"attention.kv_a_norm", "self_attn.kv_a_layernorm.weight"},
                                        {"attention.kv_b", "self_attn.kv_b_proj.weight"},
                                        {"attention.output", "self_attn.o_proj.weight"}};
  if (std::string theirs = feed_forward_name(ours, words); !theirs.empty()) return theirs;
  std::string_view const layer = take_numbered(ours, "layers.");
  if (layer.empty()) return name_in(model, ours);
  return name_in(block, ours, "model." + std::string(layer));
}

}  // namespace detail

/// The name under which DeepSeek's published models, and those that follow them, hold a weight of a
/// decoder: "layers.1.mixture.experts.3.gate" is "model.layers.1.mlp.experts.3.gate_proj.weight".
/// Empty if there is none. OLMoE's, Qwen3's, GLM's and dots.llm1's models have the same names.
inline std::string deepseek_name(std::string_view ours) { return detail::decoder_name(ours, {}); }
/// The same of Qwen1.5's and Qwen2's mixtures: "layers.1.mixture.shared.up" is
/// "model.layers.1.mlp.shared_expert.up_proj.weight".
inline std::string qwen2_moe_name(std::string_view ours) {
  return detail::decoder_name(ours, {.shared = "shared_expert."});
}
/// And of Mixtral's: "layers.1.mixture.experts.3.gate" is
/// "model.layers.1.block_sparse_moe.experts.3.w1.weight".
inline std::string mixtral_name(std::string_view ours) {
  return detail::decoder_name(
      ours,
      {.block = "block_sparse_moe.", .gate = "w1.weight", .up = "w3.weight", .down = "w2.weight"});
}

/// And of MiniMax-M2's: as Mixtral's, with selection biases.
inline std::string minimax_m2_name(std::string_view ours) {
  return detail::decoder_name(ours, {.block = "block_sparse_moe.",
                                     .gate = "w1.weight",
                                     .up = "w3.weight",
                                     .down = "w2.weight",
                                     .bias = "e_score_correction_bias"});
}

/// And of ERNIE 4.5's: as DeepSeek's, but for the selection bias.
inline std::string ernie_4_5_name(std::string_view ours) {
  return detail::decoder_name(ours, {.bias = detail::one_row_bias});
}

/// And of Granite's mixtures, GraniteMoe and GraniteMoeShared, which have all a layer's experts in two
/// tensors and no names for each: "layers.1.mixture.experts.gate_up" is
/// "model.layers.1.block_sparse_moe.input_linear.weight". Gate and up of the shared ones stand in one too.
inline std::string granite_moe_name(std::string_view ours) {
  static constexpr detail::name_pair mixture[] = {
      {"mixture.router", "block_sparse_moe.router.layer.weight"},
      {"mixture.experts.gate_up", "block_sparse_moe.input_linear.weight"},
      {"mixture.experts.down", "block_sparse_moe.output_linear.weight"},
      {"mixture.shared.gate_up", "shared_mlp.input_linear.weight"},
      {"mixture.shared.down", "shared_mlp.output_linear.weight"}};
  std::string_view part = ours;
  std::string_view const layer = detail::take_numbered(part, "layers.");
  if (layer.empty() || !part.starts_with("mixture.")) return deepseek_name(ours);
  return detail::name_in(mixture, part, "model." + std::string(layer));
}

/// And of DeepSeek-V4's mixtures, of which hash layers have tables: "layers.1.mixture.experts.3.gate" is
/// "layers.1.ffn.experts.3.w1.weight". What else its layers are made of has no name here.
inline std::string deepseek_v4_name(std::string_view ours) {
  return detail::feed_forward_name(ours, {.model = "",
                                          .block = "ffn.",
                                          .gate = "w1.weight",
                                          .up = "w3.weight",
                                          .down = "w2.weight",
                                          .bias = "gate.bias",
                                          .table = "gate.tid2eid"});
}

}  // namespace finegrain::inline FINEGRAIN_ABI
