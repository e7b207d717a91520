// profiles: the routers of published implementations, each as it computes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A profile takes a config's sizes, scale and experts, and groups where the implementation knows them,
/// and sets the order of operations and the arithmetic of that implementation's router, whatever router
/// the config had; docs/routing.md has them side by side.
///
///   constexpr config c = profiles::deepseek_v3_hf({.hidden = 7168, .width = 2048, .routed = 256,
///       .top_k = 8, .shared = 1, .scale = 2.5f, .groups = 8, .group_limit = 4});
///
/// `renormalise` is the implementation's flag (norm_topk_prob) where it has one: a released
/// model's value is the default.
namespace profiles {

namespace detail {

/// Sizes, groups, scale and experts of a config, with a router of which nothing is set.
constexpr config begun(config const& from) {
  config c{.hidden = from.hidden,
           .width = from.width,
           .routed = from.routed,
           .top_k = from.top_k,
           .shared = from.shared};
  c.scale = from.scale;
  c.groups = from.groups, c.group_limit = from.group_limit;
  c.shared_gate = from.shared_gate, c.shared_scale = from.shared_scale;
  c.act = from.act;
  return c;
}
/// The same of an implementation that knows no groups.
constexpr config begun_ungrouped(config const& from) {
  config c = begun(from);
  c.groups = c.group_limit = 1;
  return c;
}

}  // namespace detail

/// modeling_deepseek.py of deepseek-moe-16b: gate and softmax in bf16; no scale.
constexpr config deepseek_v1_hf(config c, bool renormalise = false) {
  c = detail::begun_ungrouped(c);
  c.precision = precision::bf16;
  c.renormalise = renormalise && c.top_k > 1;
  c.scale = 1;
  return checked(c);
}

/// modeling_deepseek.py of DeepSeek-V2: f32; groups by their best; renormalise or scale, not both.
constexpr config deepseek_v2_hf(config c, bool renormalise = false) {
  c = detail::begun(c);
  c.renormalise = renormalise && c.top_k > 1;
  if (c.renormalise) c.scale = 1;
  return checked(c);
}

/// modeling_deepseek.py of DeepSeek-V3: f32, sigmoid; a bias; groups by their best two; then scale.
constexpr config deepseek_v3_hf(config c, bool renormalise = true) {
  c = detail::begun(c);
  c.score = score::sigmoid;
  c.bias = true;
  c.group_score = group_score::top2_sum;
  c.renormalise = renormalise && c.top_k > 1;
  return checked(c);
}

/// inference/model.py of DeepSeek-V3: everything but the bias in bf16; divides by the bare sum.
/// The bias is there in the model of 7168 alone; without it groups go by their best. (That of
/// V3.2-Exp makes logits in f32.)
constexpr config deepseek_v3_official(config c) {
  c = detail::begun(c);
  c.score = score::sigmoid;
  c.precision = precision::bf16;
  c.bias = c.hidden == 7168;
  if (c.bias) c.group_score = group_score::top2_sum;
  c.renormalise = true;
  c.epsilon = 0;
  c.constant_weight = c.top_k == 1;
  return checked(c);
}

/// Megatron-Core's topk_routing_with_score_function on logits in f32: sigmoid and sqrt_softplus
/// are always renormalised, softmax is before top-k (pre_softmax) or after.
constexpr config megatron(config const& from, bool pre_softmax = false) {
  config c = detail::begun(from);
  c.score = from.score;
  bool const softmax = c.score == score::softmax, after = softmax && !pre_softmax;
  c.by_logits = after;
  c.renormalise = after || (!softmax && c.top_k > 1);
  if (after) c.epsilon = 0;
  c.constant_weight = after && c.top_k == 1;
  c.bias = from.bias && !softmax;
  if (c.groups > 1) c.group_score = group_score::top_share_sum;
  return checked(c);
}

/// modeling_mixtral.py: logits in bf16, softmax in f32, top-k, divided by the bare sum.
constexpr config mixtral(config c) {
  c = detail::begun_ungrouped(c);
  c.precision = precision::bf16_logits;
  c.renormalise = true;
  c.epsilon = 0;
  c.constant_weight = c.top_k == 1;
  return checked(c);
}

/// modeling_qwen2_moe.py: as Mixtral, not renormalised; the shared experts have a sigmoid gate.
constexpr config qwen2_moe(config c, bool renormalise = false) {
  c = mixtral(c);
  c.renormalise = renormalise;
  c.constant_weight = renormalise && c.top_k == 1;
  c.shared_gate = c.shared > 0;
  return checked(c);
}

/// modeling_qwen3_moe.py: as Mixtral; no shared experts.
constexpr config qwen3_moe(config c, bool renormalise = true) {
  if (c.shared > 0) throw invalid_config("finegrain::profiles: qwen3_moe has no shared experts");
  return qwen2_moe(c, renormalise);
}

/// modeling_olmoe.py: as Mixtral, not renormalised; no shared experts.
constexpr config olmoe(config c, bool renormalise = false) {
  if (c.shared > 0) throw invalid_config("finegrain::profiles: olmoe has no shared experts");
  return qwen2_moe(c, renormalise);
}

/// llama.cpp's build_moe_ffn: f32; groups by their best two; a sum of at least 2^-14 divides, or by_logits
/// is its softmax of the chosen logits.
constexpr config llama_cpp(config const& from) {
  config c = detail::begun(from);
  c.score = from.score, c.bias = from.bias, c.by_logits = from.by_logits;
  c.renormalise = from.renormalise || c.by_logits;
  c.group_score = group_score::top2_sum;
  c.epsilon = 0;
  c.floor = c.by_logits ? 0 : 0x1p-14f;
  c.constant_weight = c.renormalise && c.top_k == 1;
  return checked(c);
}

/// DeepSeek-V4 as Megatron-Core has it: f32, sqrt(softplus), a bias, no groups, renormalised, then scale.
/// The act of V4's experts, {activation::swiglu, 10}, is the config's.
constexpr config deepseek_v4(config c) {
  c = detail::begun_ungrouped(c);
  c.score = score::sqrt_softplus;
  c.bias = true;
  c.renormalise = c.top_k > 1;
  return checked(c);
}

/// DeepSeek-V4's first layers: experts by token id, weighed by their scores.
constexpr config deepseek_v4_hash(config c, int vocabulary) {
  return deepseek_v4(c).by_id(vocabulary);
}

/// modeling_ernie4_5_moe.py: f32, softmax, a bias, no groups; a sum of at least 1e-12 divides; no scale.
constexpr config ernie_4_5(config c) {
  c = detail::begun_ungrouped(c);
  c.bias = true;
  c.renormalise = true;
  c.epsilon = 0, c.floor = 1e-12f;
  c.constant_weight = c.top_k == 1;
  c.scale = 1;
  return checked(c);
}

// ---- baselines of the paper's section 4 ---------------------------------------------------------

/// Switch: one expert, weighed by its softmax; in training jitter, of the size that the request has.
constexpr config switch_top1(config c) {
  c = detail::begun_ungrouped(c);
  c.top_k = 1;
  c.jitter = true;
  return checked(c);
}

/// GShard: two experts, renormalised; training uses the second by chance.
constexpr config gshard_top2(config c) {
  c = detail::begun_ungrouped(c);
  c.top_k = 2;
  c.renormalise = true;
  c.chance_second = true;
  return checked(c);
}

/// Hash layers: experts by token id, all weights alike.
constexpr config hash_layer(config c, int vocabulary) {
  c = detail::begun(c).by_id(vocabulary);
  c.uniform = true;
  return checked(c);
}

}  // namespace profiles

}  // namespace finegrain::inline FINEGRAIN_ABI
