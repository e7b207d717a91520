// What a published model's config.json says that it computes, beside what an expression computes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../expr/decoder.hpp"
#include "../plan/rotary.hpp"
#include "config_reader.hpp"
#include "tensor_files.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace detail {

/// Compares what stages compute with a published config. Each stage compares what it knows; what a
/// config does not say is not compared, unless a family of models has always one value.
class config_comparison {
 public:
  FINEGRAIN_LAZY explicit config_comparison(std::string const& path)
      : in_file_("in " + path.substr(path.rfind('/') + 1)),
        values_(of_text_model(config_reader<>(text_of(path, 1), path.c_str()).read())),
        family_(find({"model_type"}).second.text()) {}

  /// One line for each.
  std::vector<std::string> differences() {
    (behind_embedding_ ? embedding_factor_ : logits_factor_) *= std::exchange(factor_, 1);
    if (begins_ && ends_) same({"num_hidden_layers"}, layers_);
    if (begins_) same_or(1, {"embedding_multiplier"}, embedding_factor_);
    for (double const factor : residual_factors_) same_or(1, {"residual_multiplier"}, factor);
    if (ends_) same_or(1, {"logits_scaling"}, 1 / logits_factor_);
    if (layers_ > 0) all_in("layer_types.", "full_attention");
    return differences_;
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
  template <int D, norm_epsilon Epsilon>
  void compare(rmsnorm<D, Epsilon>) {
    begin_stage();
    same({"rms_norm_eps"}, Epsilon.value);
  }
  template <int D, constant_factor Factor>
  void compare(times<D, Factor>) {
    factor_ *= Factor.value;
  }
  template <int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
  void compare(attention<D, Heads, KvHeads, HeadDim, Form>) {
    same({"num_key_value_heads"}, KvHeads);
    same({"head_dim"}, HeadDim);
    same({"use_qk_norm"}, Form.norm != head_norm::none);
    if (Form.norm != head_norm::none) same({"rms_norm_eps"}, Form.epsilon);
    // Most families' word is of the output too, GLM's is not.
    same({"attention_bias"}, Form.bias && is_of({"glm4_moe"}));
    same({"use_bias"}, false);
    same_or(is_of({"ernie4_5_moe"}), {"rope_interleave"}, false);
    int const turned = turn_of(Form, HeadDim).dim;
    same({"rotary_dim"}, turned);
    if (find({"rotary_dim"}).second == nullptr) turned_part(double(turned) / HeadDim);
    double const usual = 1 / math::sqrt(double(HeadDim));
    same_or(is_of({"granitemoe", "granitemoeshared"}) ? 1 : usual, {"attention_multiplier"},
            Form.scale > 0 ? Form.scale : usual);
    attention_numbers(D, Heads, Form.theta, Form.yarn);
  }
  template <int D, int Heads, latent N>
  void compare(latent_attention<D, Heads, N>) {
    same({"q_lora_rank"}, N.q_rank);
    same({"kv_lora_rank"}, N.kv_rank);
    same({"qk_nope_head_dim"}, N.nope);
    same({"qk_rope_head_dim"}, N.rope);
    same({"v_head_dim"}, N.value);
    same({"rope_interleave"}, true);
    same({"attention_bias"}, false);
    turned_part(1);
    attention_numbers(D, Heads, double(N.theta), N.yarn);
  }
  template <int D, int F, glu Act>
  void compare(mlp<D, F, Act>) {
    feed_forward(D, Act);
  }
  template <config C>
  void compare(shared_experts<C>) {
    same({"n_shared_experts", "moe_num_shared_experts"}, C.shared);
    same({"shared_expert_intermediate_size", "shared_intermediate_size"}, C.shared * C.width);
    feed_forward(C.hidden, C.act);
  }
  template <config C, class Router>
  void compare(routed_experts<C, Router>) {
    experts(C);
  }

 private:
  // ---- what a config says ------------------------------------------------------------------------

  using names = std::initializer_list<std::string_view>;

  /// The value of the first of these names that has one, and that name; else null and the first name.
  std::pair<std::string_view, config_value> find(names all) const {
    for (std::string_view name : all)
      if (auto const at = values_.find(name); at != values_.end() && at->second != nullptr)
        return *at;
    return {*all.begin(), nullptr};
  }
  /// Notes a difference between ours and what stands under the first of these names; where nothing
  /// does, nothing is compared.
  void same(names all, config_value const& ours) { same_or(ours, all, ours); }
  /// The same where nothing means `absent`.
  void same_or(config_value const& absent, names all, config_value const& ours) {
    auto const [name, theirs] = find(all);
    if (theirs == nullptr)
      note(name, absent, ours, "by default");
    else
      note(name, theirs, ours, in_file_);
  }
  /// The same for everything in a list, whose name ends in a dot.
  void all_in(std::string_view list, config_value const& ours) {
    for (auto at = values_.lower_bound(list); at != values_.end() && at->first.starts_with(list);
         ++at)
      note(at->first, at->second, ours, in_file_);
  }
  void note(std::string_view name, config_value const& theirs, config_value const& ours,
            std::string const& where) {
    if (theirs == ours) return;
    std::string line(name);
    line += " is " + theirs.text() + " " + where + ", ";
    line += ours == nullptr ? "which no stage here has" : ours.text() + " here";
    if (noted_.insert(line).second) differences_.push_back(std::move(line));
  }
  bool is_of(names families) const {
    return std::find(families.begin(), families.end(), family_) != families.end();
  }

  // ---- numbers of several stages -----------------------------------------------------------------

  /// Factors stand behind the embedding, at a residual's end and before the head, and before no other
  /// stage.
  void begin_stage() {
    if (std::exchange(behind_embedding_, false)) embedding_factor_ = std::exchange(factor_, 1);
    if (factor_ != 1) note("a factor elsewhere", 1, factor_, "in published models");
    factor_ = 1;
  }
  /// The part of a head that positions turn.
  void turned_part(double ours) {
    same_or(1, {"partial_rotary_factor", "rope_parameters.partial_rotary_factor"}, ours);
  }
  FINEGRAIN_LAZY void attention_numbers(int hidden, int heads, double theta, yarn const& turns) {
    ++layers_;
    begin_stage();
    same({"hidden_size"}, hidden);
    same({"num_attention_heads"}, heads);
    same({"clip_qkv"}, nullptr);
    same({"index_topk"}, nullptr);
    same({"attn_logit_softcapping"}, nullptr);
    if (find({"use_sliding_window"}).second != false) same({"sliding_window"}, nullptr);
    same({"rope_theta", "rope_parameters.rope_theta"}, theta);
    same({"llama_4_scaling_beta", "rope_parameters.llama_4_scaling_beta"}, nullptr);
    names const type{"rope_scaling.type", "rope_scaling.rope_type", "rope_parameters.rope_type"};
    if (turns.factor == 1) return same(type, "default");
    same_or(nullptr, type, "yarn");
    if (find(type).second != "yarn") return;
    auto const scaling = [&](std::string const& name, config_value const& absent,
                             config_value const& ours) {
      same_or(absent, {"rope_scaling." + name, "rope_parameters." + name}, ours);
    };
    scaling("factor", nullptr, turns.factor);
    scaling("original_max_position_embeddings", find({"max_position_embeddings"}).second,
            turns.original);
    scaling("beta_fast", 32, turns.fast);
    scaling("beta_slow", 1, turns.slow);
    scaling("mscale", 1, turns.mscale);
    scaling("mscale_all_dim", 0, turns.mscale_all);
    scaling("attention_factor", nullptr, nullptr);
    scaling("truncate", true, true);
  }
  FINEGRAIN_LAZY void feed_forward(int hidden, glu act) {
    begin_stage();
    same({"hidden_size"}, hidden);
    if (is_of({"gpt_oss", "minimax_m3"}))
      note("swiglu_limit of " + family_ + "'s own SwiGLU", find({"swiglu_limit"}).second, nullptr,
           in_file_);
    else
      same_or(0, {"swiglu_limit"}, double(act.limit));
    for (char const* list : {"swiglu_limits.", "expert_swiglu_limit_list."})
      all_in(list, double(act.limit));
    same({"hidden_act"}, act.kind == activation::swiglu  ? "silu"
                         : act.kind == activation::geglu ? "gelu_pytorch_tanh"
                                                         : "relu");
  }
  FINEGRAIN_LAZY void experts(config const& c) {
    same({"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"}, c.routed);
    same({"num_experts_per_tok", "moe_k"}, c.top_k);
    same({"moe_intermediate_size", "intermediate_size"}, c.width);
    feed_forward(c.hidden, c.act);

    // Of what a family's models always do their configs need not speak.
    bool const sigmoid =
        is_of({"deepseek_v3", "kimi_k2", "glm4_moe", "glm4_moe_lite", "dots1", "minimax_m2"});
    bool const scaled = (sigmoid && !is_of({"minimax_m2"})) || is_of({"deepseek_v2"});
    bool const normed = is_of({"mixtral", "minimax_m2", "qwen3_vl_moe_text", "qwen3_5_moe_text",
                               "ernie4_5_moe", "granitemoe", "granitemoeshared"});
    bool const softmax = is_of({"deepseek", "deepseek_v2", "qwen2_moe", "qwen3_moe",
                                "qwen3_vl_moe_text", "qwen3_next", "qwen3_5_moe_text", "olmoe",
                                "mixtral", "ernie4_5_moe", "granitemoe", "granitemoeshared"});
    config_value const score_name = c.score == score::softmax   ? "softmax"
                                    : c.score == score::sigmoid ? "sigmoid"
                                                                : "sqrtsoftplus";
    if (c.score != score::sigmoid ||
        find({"scoring_func"}).second != "noaux_tc")  // dots.llm1's word
      same_or(softmax ? "softmax" : sigmoid ? "sigmoid" : score_name, {"scoring_func"}, score_name);
    if (c.top_k > 1) same_or(normed || c.renormalise, {"norm_topk_prob"}, c.renormalise);
    if (c.renormalise) same({"moe_norm_min"}, c.floor);
    same_or((softmax || sigmoid) && !scaled ? 1 : c.scale, {"routed_scaling_factor"}, c.scale);
    if (c.selection == selection::top_k) groups(c, softmax ? "greedy" : sigmoid ? "noaux_tc" : "");
  }
  /// Whether groups of experts limit the choice, and how; `absent` is how where a config has no word.
  FINEGRAIN_LAZY void groups(config const& c, std::string_view absent) {
    bool const two = c.group_score == group_score::top2_sum ||
                     (c.group_score == group_score::top_share_sum && c.top_k == 2 * c.group_limit);
    std::string_view const ours = c.group_limit == c.groups           ? "greedy"
                                  : two                               ? "noaux_tc"
                                  : c.group_score == group_score::max ? "group_limited_greedy"
                                                                      : "a sum of other numbers";
    auto const [name, how] = find({"topk_method"});
    bool const by_groups = how == nullptr || how == "noaux_tc" || how == "group_limited_greedy";
    if (ours == "greedy" && by_groups && find({"n_group"}).second == find({"topk_group"}).second)
      return;  // all of them
    same_or(absent.empty() ? ours : absent, {name}, ours);
    if (ours == "greedy") return;
    same({"n_group"}, c.groups);
    same({"topk_group"}, c.group_limit);
  }

  std::string in_file_;  // "in config.json"
  config_values values_;
  std::string family_;
  std::vector<std::string> differences_;
  std::set<std::string> noted_;         // the same lines: equal stages differ in the same
  int layers_ = 0;                      // stages of attention
  bool begins_ = false, ends_ = false;  // as a whole model does
  bool tied_ = false;                   // the head has the embedding's table
  bool behind_embedding_ = false;       // with nothing but factors in between
  double factor_ = 1;                   // behind the last stage
  double embedding_factor_ = 1, logits_factor_ = 1;
  std::set<double> residual_factors_;
};

/// What the config of a published model says otherwise than an expression.
template <Expr E>
std::vector<std::string> config_differences(std::string const& config) {
  config_comparison comparison(config);
  leaves<E>::visit(comparison);
  return comparison.differences();
}

}  // namespace detail

/// Compares an expression with the config.json of a published model: its numbers, and what models of
/// other families do that no stage here does. Throws file_error, or mismatch with the list of
/// differences.
template <Expr E>
void check_published(std::string const& config) {
  auto differences = detail::config_differences<E>(config);
  if (!differences.empty()) throw mismatch(config, std::move(differences));
}

}  // namespace finegrain::inline FINEGRAIN_ABI
