// Weights as others publish them: their names, their number formats, in one file or in several.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The name under which DeepSeek's published models, and those that follow them, hold a weight of a
/// decoder: "layers.1.mixture.experts.3.gate" is "model.layers.1.mlp.experts.3.gate_proj.weight".
/// Empty if there is none.
inline std::string deepseek_name(std::string_view ours) {
  using pair = std::pair<std::string_view, std::string_view>;
  static constexpr pair model[] = {{"embedding.table", "model.embed_tokens.weight"},
                                   {"rmsnorm.gain", "model.norm.weight"},
                                   {"head.weight", "lm_head.weight"}};
  static constexpr pair block[] = {{"rmsnorm.gain", "input_layernorm.weight"},
                                   {"rmsnorm_2.gain", "post_attention_layernorm.weight"},
                                   {"attention.query", "self_attn.q_proj.weight"},
                                   {"attention.key", "self_attn.k_proj.weight"},
                                   {"attention.value", "self_attn.v_proj.weight"},
                                   {"attention.q_proj", "self_attn.q_proj.weight"},
                                   {"attention.q_a", "self_attn.q_a_proj.weight"},
                                   {"attention.q_a_norm", "self_attn.q_a_layernorm.weight"},
                                   {"attention.q_b", "self_attn.q_b_proj.weight"},
                                   {"attention.kv_a", "self_attn.kv_a_proj_with_mqa.weight"},
                                   {"attention.kv_a_norm", "self_attn.kv_a_layernorm.weight"},
                                   {"attention.kv_b", "self_attn.kv_b_proj.weight"},
                                   {"attention.output", "self_attn.o_proj.weight"}};
  static constexpr pair feed_forward[] = {{"gate", "gate_proj.weight"},
                                          {"up", "up_proj.weight"},
                                          {"down", "down_proj.weight"},
                                          {"router", "gate.weight"},
                                          {"bias", "gate.e_score_correction_bias"},
                                          {"shared_gate", "shared_expert_gate.weight"}};
  std::string theirs;
  auto const take = [&](std::string_view part) {
    bool const there = ours.starts_with(part);
    if (there) ours.remove_prefix(part.size());
    return there;
  };
  auto const number = [&] {  // "3." of an expert or a layer
    std::size_t const end = ours.find('.') + 1;
    theirs += ours.substr(0, end);
    ours.remove_prefix(end);
  };
  auto const look_up = [&](auto const& list) {
    for (auto const& [here, there] : list)
      if (here == ours) return theirs.append(there);
    return std::string();
  };
  if (!take("layers.")) return look_up(model);
  theirs = "model.layers.";
  number();
  if (!take("mixture.") && !take("mlp.")) return look_up(block);
  theirs += "mlp.";
  if (take("shared.")) {
    theirs += "shared_experts.";
  } else if (take("experts.")) {
    theirs += "experts.";
    number();
  }
  return look_up(feed_forward);
}

/// Reads a network's weights as a published model has them, as load_weights does, under other names.
/// `place` is where the network stands in a decoder, if it is a part of one:
///
///   load_published(model, "deepseek-moe-16b-base");
///   load_published(layer, "deepseek-moe-16b-base", "layers.3.mixture.");
///
/// name(weight) is the tensor's name; an empty one says that it has none. A tensor that stands in the
/// files among the weights and is unknown here is a difference too, but for those of V3's layer for
/// multi-token prediction, which the model does not have.
template <Expr E, class X, class Name = std::string (*)(std::string_view)>
void load_published(network<E, X>& net, std::string const& path, std::string const& place = {},
                    Name&& name = deepseek_name) {
  tensor_files const files(path);
  detail::read_weights(net, detail::find_weights(files, net.entries(), place, name));
}

}  // namespace finegrain::inline FINEGRAIN_ABI
