// config_comparison: what each stage computes, beside what the keys of a published config say of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../expr/latent_attention.hpp"
#include "../expr/layers.hpp"
#include "../expr/tied.hpp"
#include "../plan/rotary.hpp"
#include "config_keys.hpp"
#include "published_family.hpp"
#include "unlike_stages.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// Compares what stages compute with a published config. Each stage compares what it knows; what a
/// config does not say is not compared, unless a family of models has always one value.
///
/// Or with a family's form, whose open keys take what is compared with them: so a config is written. What
/// differs then, and what the form has no word for, no config of that family can say.
class config_comparison : config_keys {
 public:
  using config_keys::config_keys;

  /// One line for each.
  FINEGRAIN_LAZY std::vector<std::string> differences() {
    (behind_embedding_ ? embedding_factor_ : logits_factor_) *= std::exchange(factor_, 1);
    if (begins_ && ends_) same({"num_hidden_layers"}, layers_);
    if (begins_ && ends_ && mixtures_ > 0) dense_layers();
    if (begins_) same_or(1, {"embedding_multiplier"}, embedding_factor_);
    for (double const factor : residual_factors_) same_or(1, {"residual_multiplier"}, factor);
    if (ends_) same_or(1, {"logits_scaling"}, 1 / logits_factor_);
    if (layers_ > 0) all_in("layer_types.", "full_attention");
    return lines();
  }
  /// The text of the config. Throws invalid_argument where no config of the family says these stages, or
  /// the facts are no model's.
  FINEGRAIN_LAZY std::string written(published_facts const& facts) {
    if (auto const differing = differences(); !differing.empty()) {
      std::string all;
      for (std::string const& line : differing) all += (all.empty() ? "" : "; ") + line;
      throw invalid_argument("no %.60s computes what this decoder does (differences: %lld): %.350s",
                             family().c_str(), shown(differing.size()), all.c_str());
    }
    if (facts.positions < 0)
      throw invalid_argument("positions, %d, must not be negative", facts.positions);
    values()["max_position_embeddings"] = facts.positions > 0 ? facts.positions : positions_;
    for (auto const& [name, id] : {std::pair{"bos_token_id", facts.bos},
                                   {"eos_token_id", facts.eos},
                                   {"pad_token_id", facts.pad}}) {
      if (id < -1 || id >= *find({"vocab_size"}).second.number())
        throw invalid_argument("%s, %d, is no id of the vocabulary", name, id);
      values()[name] = id < 0 ? config_value(nullptr) : config_value(id);
    }
    values()["torch_dtype"] = published_type_name(facts.type);
    return config_text(values());
  }

  void operator()(auto stage) { compare(stage); }
  /// Behind all stages of a residual: a factor there is of what they add.
  void end_residual() { residual_factors_.insert(std::exchange(factor_, 1)); }

  // ---- one of these for each stage ---------------------------------------------------------------

  template <Expr L>
  void compare(L) {  // a stage that no config speaks of
    begin_stage();
  }
  template <int V, int D>
  void compare(embedding<V, D>) {
    begins_ = true;
    behind_embedding_ = true;
    same({"vocab_size"}, V);
    same({"hidden_size"}, D);
  }
  template <int V, int D>
  void compare(tied_embedding<V, D>) {
    tied_ = true;
    compare(embedding<V, D>{});
  }
  template <int D, int V>
  void compare(head<D, V>) {
    ends_ = true;
    if (!behind_embedding_) logits_factor_ = std::exchange(factor_, 1);
    begin_stage();
    same({"hidden_size"}, D);
    same({"vocab_size"}, V);
    same({"tie_word_embeddings"}, tied_);
    same({"final_logit_softcapping"}, nullptr);
  }
  template <int D, real_number Epsilon>
  void compare(rmsnorm<D, Epsilon>) {
    begin_stage();
    unlike("norm");
    same({"rms_norm_eps"}, Epsilon.value);
  }
  template <int D, real_number Factor>
  void compare(times<D, Factor>) {
    factor_ *= Factor.value;
  }
  template <int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
  void compare(attention<D, Heads, KvHeads, HeadDim, Form>) {
    of_heads(HeadDim, Form);
    required("num_attention_heads * head_dim == hidden_size", Heads * HeadDim == D);
    same({"num_key_value_heads"}, KvHeads);
    double const usual = 1 / math::sqrt(double(HeadDim));
    same_or(usual, {"attention_multiplier"}, Form.scale > 0 ? Form.scale : usual);
    attention_numbers(D, Heads, Form.theta, Form.yarn);
  }
  template <int D, int Heads, latent N>
  void compare(latent_attention<D, Heads, N>) {
    in_form_above_all("attention.latent", true);
    required("hidden_size % num_attention_heads", D % Heads);
    required("kv_lora_rank % 2", N.kv_rank % 2);
    required("qk_nope_head_dim % 2", N.nope % 2);
    same({"num_key_value_heads"}, Heads);
    same({"q_lora_rank"}, N.q_rank > 0 ? config_value(N.q_rank) : nullptr);
    same({"kv_lora_rank"}, N.kv_rank);
    same({"qk_nope_head_dim"}, N.nope);
    same({"qk_rope_head_dim"}, N.rope);
    same({"v_head_dim"}, N.value);
    same({"rope_interleave"}, true);
    same({"attention_bias"}, false);
    turned_part(1, 1);
    attention_numbers(D, Heads, double(N.theta), N.yarn);
  }
  template <int D, int F, glu Act>
  void compare(mlp<D, F, Act>) {
    ++dense_;
    same({"intermediate_size"}, F);
    feed_forward(D, Act);
  }
  template <config C>
  void compare(shared_experts<C>) {
    if (knows({"shared_expert_intermediate_size", "shared_intermediate_size"}))
      same({"shared_expert_intermediate_size", "shared_intermediate_size"}, C.shared * C.width);
    else
      same({"n_shared_experts", "moe_num_shared_experts"}, C.shared);
    in_form("moe.shared_gate", C.shared_gate);
    if (C.shared_scale != 1) in_form("moe.shared_scale", C.shared_scale);
    feed_forward(C.hidden, C.act);
  }
  template <config C, class Router>
  void compare(routed_experts<C, Router>) {
    experts(C);
  }

 private:
  // ---- numbers of several stages -----------------------------------------------------------------

  /// Notes what a stage of the config's family does, if that is none of the library's.
  void unlike(std::string_view stage) {
    for (unlike_stage const& other : unlike_stages)
      if (other.family == family() && other.stage == stage)
        note("the " + std::string(stage) + " of " + family() + " " + std::string(other.does) +
             ", which no stage here does");
  }
  /// Factors stand behind the embedding, at a residual's end and before the head, and before no other
  /// stage.
  void begin_stage() {
    if (std::exchange(behind_embedding_, false)) embedding_factor_ = std::exchange(factor_, 1);
    if (factor_ != 1) note("a factor elsewhere", 1, factor_, "in published models");
    factor_ = 1;
  }
  /// Layers that have no mixture, which come first.
  FINEGRAIN_LAZY void dense_layers() {
    no_other({"decoder_sparse_step"}, 1);
    no_other({"moe_layer_freq"}, 1);
    no_other({"moe_layer_interval"}, 1);
    if (find({"moe_layer_end_index"}).second != -1) no_other({"moe_layer_end_index"}, layers_ - 1);
    if (!knows({"mlp_only_layers"}))
      same({"first_k_dense_replace", "moe_layer_start_index"}, dense_);
    std::vector<config_value> dense, types;
    for (int i = 0; i < dense_; ++i) dense.emplace_back(i);
    for (int i = 0; i < layers_; ++i) types.emplace_back(i < dense_ ? "dense" : "sparse");
    // A config with that key is of a family for which no list is an empty one.
    same_list("mlp_only_layers.", dense, knows({"decoder_sparse_step"}));
    same_list("mlp_layer_types.", types, false);
  }
  /// What a key of positions is called that a config has, of their own first: those win in transformers.
  std::string of_positions(std::string_view key) const {
    for (std::string_view const own : {"rope_scaling.", "rope_parameters."})
      if (std::string const name = std::string(own).append(key); find({name}).second != nullptr)
        return name;
    return std::string(key);
  }
  /// The part of a head that positions turn: of so many numbers it is, rounded down, so many.
  void turned_part(int turned, int of) {
    double part = double(turned) / of;
    if (part * of < turned) part = std::nextafter(part, 1);
    same_or(1, {of_positions("partial_rotary_factor")}, part);
  }
  FINEGRAIN_LAZY void of_heads(int head_dim, attention_form const& form) {
    in_form_above_all("attention.latent", false);
    same({"head_dim"}, head_dim);
    same({"use_qk_norm"}, form.norm != head_norm::none);
    if (form.norm != head_norm::none) {
      same({"rms_norm_eps"}, form.epsilon);
      in_form("attention.norm", form.norm == head_norm::each ? "each" : "all");
    }
    // Most families' word is of the output too, GLM's is not.
    bool const of_three = is_of({"glm4_moe"});
    same({of_three ? "attention_bias" : "qkv_bias"}, form.bias);
    if (!of_three) same({"attention_bias"}, false);
    same({"use_bias"}, false);
    same_or(is_of({"ernie4_5", "ernie4_5_moe", "glm", "glm4"}), {"rope_interleave"}, form.adjacent);
    int const turned = turn_of(form, head_dim).dim;
    bool const in_numbers = knows({"rotary_dim"});
    if (in_numbers) same({"rotary_dim"}, turned);
    if (!in_numbers || knows({of_positions("partial_rotary_factor")}))
      turned_part(turned, head_dim);
  }
  FINEGRAIN_LAZY void attention_numbers(int hidden, int heads, double theta, yarn const& turns) {
    ++layers_;
    begin_stage();
    unlike("attention");
    same({"hidden_size"}, hidden);
    same({"num_attention_heads"}, heads);
    same({"clip_qkv"}, nullptr);
    same({"index_topk"}, nullptr);
    same({"attn_logit_softcapping"}, nullptr);
    same({"attention_value_scale"}, nullptr);
    // Where each layer says whether it has the window, all say that they have none (differences).
    bool const by_layer = knows({"layer_types.0"}) && !is_of({"mixtral", "olmoe", "qwen3_moe"});
    if (!by_layer && find({"use_sliding_window"}).second != false)
      same({"sliding_window"}, nullptr);
    same({of_positions("rope_theta")}, theta);
    same({of_positions("llama_4_scaling_beta")}, nullptr);
    names const type{"rope_scaling.rope_type", "rope_scaling.type", "rope_parameters.rope_type",
                     "rope_parameters.type"};
    if (turns.factor == 1) return no_other(type, "default");
    positions_ = static_cast<int>(std::min(double(turns.factor) * turns.original, double(INT_MAX)));
    same_or(nullptr, type, "yarn");
    if (find(type).second != "yarn") return;
    auto const scaling = [&](std::string const& name, config_value const& absent,
                             config_value const& ours) {
      same_or(absent, {"rope_scaling." + name, "rope_parameters." + name}, ours);
    };
    scaling("factor", nullptr, turns.factor);
    if (std::string_view const original = "original_max_position_embeddings"; knows({original}))
      same({original}, turns.original);  // which wins in transformers
    else
      scaling(std::string(original), find({"max_position_embeddings"}).second, turns.original);
    scaling("beta_fast", 32, turns.fast);
    scaling("beta_slow", 1, turns.slow);
    scaling("mscale", 1, turns.mscale);
    scaling("mscale_all_dim", 0, turns.mscale_all);
    scaling("attention_factor", nullptr, nullptr);
    scaling("truncate", true, true);
    // Where one of them is 0, transformers has 1 and 0; DeepSeek's own code has them as they are.
    if (turns.mscale_all == 0 ? turns.mscale != 1 : turns.mscale == 0) {
      in_form("yarn.mscale beside mscale_all", turns.mscale);
      if (!writes() && !is_of({"deepseek_v2", "deepseek_v3", "kimi_k2"}))
        note("the mscale of " + family() +
             " counts only beside an mscale_all_dim, here it does alone");
    }
  }
  FINEGRAIN_LAZY void feed_forward(int hidden, glu act) {
    begin_stage();
    same({"hidden_size"}, hidden);
    unlike("feed-forward block");
    if (!is_of({"gpt_oss", "minimax_m3", "minimax_m3_vl_text"}))  // which have another
      same_or(0, {"swiglu_limit"}, double(act.limit));
    for (char const* list : {"swiglu_limits.", "expert_swiglu_limit_list."})
      all_in(list, double(act.limit));
    same({"hidden_act"}, act.kind == activation::swiglu  ? "silu"
                         : act.kind == activation::geglu ? "gelu_pytorch_tanh"
                                                         : "relu");
  }
  FINEGRAIN_LAZY void experts(config const& c) {
    ++mixtures_;
    same({"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"}, c.routed);
    unlike("router");
    if (knows({"moe_topk.0"}))  // of each layer
      all_in("moe_topk.", c.top_k);
    else
      same_and_said({"num_experts_per_tok", "moe_k", "moe_topk"}, c.top_k);
    same_or(0, {"router_logit_softcapping"}, 0);
    same({"moe_intermediate_size", "intermediate_size"}, c.width);
    feed_forward(c.hidden, c.act);

    // Of what a family's models always do their configs need not speak.
    bool const sigmoid =
        is_of({"deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite", "dots1", "minimax_m2"});
    bool const scaled = (sigmoid && !is_of({"minimax_m2"})) || is_of({"deepseek_v2"});
    bool const normed =
        is_of({"mixtral", "minimax_m2", "qwen3_vl_moe_text", "qwen3_5_moe_text", "ernie4_5_moe",
               "granitemoe", "granitemoeshared", "granitemoehybrid", "hunyuan_v1_moe"});
    bool const softmax =
        is_of({"deepseek", "deepseek_v2", "qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text",
               "qwen3_next", "qwen3_5_moe_text", "olmoe", "mixtral", "ernie4_5_moe", "granitemoe",
               "granitemoeshared", "granitemoehybrid", "hunyuan_v1_moe", "mellum"});
    config_value const score_name = c.score == score::softmax   ? "softmax"
                                    : c.score == score::sigmoid ? "sigmoid"
                                                                : "sqrtsoftplus";
    if (c.score != score::sigmoid ||
        find({"scoring_func"}).second != "noaux_tc")  // dots.llm1's word
      same_or_said(softmax ? "softmax" : sigmoid ? "sigmoid" : "", {"scoring_func"}, score_name);
    bool const unsaid = normed || (c.renormalise && !writes());
    same_or(unsaid, {"norm_topk_prob"}, c.renormalise);
    if (c.renormalise) same({"moe_norm_min"}, c.floor);
    bool const by_one = writes() || ((softmax || sigmoid) && !scaled);
    same_or(by_one ? 1 : c.scale, {"routed_scaling_factor"}, c.scale);
    if (c.selection == selection::top_k) groups(c, softmax ? "greedy" : sigmoid ? "noaux_tc" : "");

    if (c.selection != selection::top_k) in_form("moe.selection", "not top_k");
    in_form("moe.bias", c.bias);
    in_form("moe.cosine", c.cosine);
    if (c.bias || c.group_limit < c.groups) in_form("moe.by_logits", c.by_logits);
    if (c.renormalise && c.epsilon > 1e-20f) in_form("moe.epsilon", c.epsilon);
  }
  /// Whether groups of experts limit the choice, and how; `absent` is how where a config has no word.
  FINEGRAIN_LAZY void groups(config const& c, std::string_view absent) {
    bool const two = c.group_score == group_score::top2_sum ||
                     (c.group_score == group_score::top_share_sum && c.top_k == 2 * c.group_limit);
    std::string_view const ours = c.group_limit == c.groups           ? "greedy"
                                  : two                               ? "noaux_tc"
                                  : c.group_score == group_score::max ? "group_limited_greedy"
                                                                      : "a sum of other numbers";
    if (ours == "greedy") {
      take({"topk_method"}, ours);
      take({"n_group"}, 1);
      take({"topk_group"}, 1);
    } else if (knows({"moe.group_score"})) {  // which the method's word does not limit
      same({"moe.group_score"}, two ? "a sum" : "max");
    }
    auto const [name, how] = find({"topk_method"});
    bool const by_groups = how == nullptr || how == "noaux_tc" || how == "group_limited_greedy";
    config_value const groups = find({"n_group"}).second;
    if (ours == "greedy" && by_groups && groups == find({"topk_group"}).second && groups != "null")
      return;  // all of them
    same_or_said(absent, {name}, ours);
    if (ours == "greedy") return;
    same({"n_group"}, c.groups);
    same({"topk_group"}, c.group_limit);
  }

  int layers_ = 0;                      // stages of attention,
  int dense_ = 0, mixtures_ = 0;        // of mlp and of experts
  int positions_ = 4096;                // that they reach, as far as can be told
  bool begins_ = false, ends_ = false;  // as a whole model does
  bool tied_ = false;                   // the head has the embedding's table
  bool behind_embedding_ = false;       // with nothing but factors in between
  double factor_ = 1;                   // behind the last stage
  double embedding_factor_ = 1, logits_factor_ = 1;
  std::set<double> residual_factors_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
