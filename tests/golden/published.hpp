// The configs of golden.jsonl that published implementations have.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "golden.hpp"

namespace golden::of_published {

namespace profiles = fg::profiles;
using fg::config;

constexpr config sized(int routed, int top_k, int shared = 0, float scale = 1, int groups = 1,
                       int limit = 1) {
  return {.hidden = D,
          .width = F,
          .routed = routed,
          .top_k = top_k,
          .shared = shared,
          .scale = scale,
          .groups = groups,
          .group_limit = limit};
}
constexpr config scored(config c, fg::score score, bool bias = false) {
  c.score = score;
  c.bias = bias;
  return c;
}
constexpr config within(float limit, config c) {
  c.act.limit = limit;
  return c;
}
constexpr config renormalised(config c) {
  c.renormalise = true;
  return c;
}
/// The official code has the bias at a width of 7168 alone.
constexpr config with_bias(config c) {
  c.bias = true;
  c.group_score = fg::group_score::top2_sum;
  return c;
}

inline constexpr auto sigmoid = fg::score::sigmoid, sqrt_softplus = fg::score::sqrt_softplus;

template <class X>
constexpr known<X> published[] = {
    as<profiles::deepseek_v1_hf(sized(15, 3, 2)), X>("deepseek_v1"),
    as<profiles::deepseek_v1_hf(sized(16, 4, 1), true), X>("deepseek_v1_norm"),
    as<profiles::deepseek_v2_hf(sized(16, 3, 2, 16, 4, 2)), X>("deepseek_v2"),
    as<profiles::deepseek_v2_hf(sized(16, 3, 2, 16, 4, 2), true), X>("deepseek_v2_norm"),
    as<profiles::deepseek_v2_hf(sized(15, 4, 1)), X>("deepseek_v2_greedy"),
    as<profiles::deepseek_v3_hf(sized(16, 4, 1, 2.5, 4, 2)), X>("deepseek_v3"),
    as<profiles::deepseek_v3_hf(sized(15, 3, 1, 1.5), false), X>("deepseek_v3_raw"),
    as<profiles::deepseek_v3_official(sized(16, 4, 1, 2.5, 4, 2)), X>("deepseek_v3_official"),
    as<with_bias(profiles::deepseek_v3_official(sized(16, 4, 1, 2.5, 4, 2))), X>(
        "deepseek_v3_official_bias"),
    as<profiles::megatron(sized(15, 3)), X>("megatron_post"),
    as<profiles::megatron(sized(15, 1)), X>("megatron_post_one"),
    as<profiles::megatron(sized(16, 4, 1, 2.5, 4, 2)), X>("megatron_post_groups"),
    as<profiles::megatron(sized(15, 3), true), X>("megatron_pre"),
    as<profiles::megatron(sized(18, 6, 0, 1, 3, 2), true), X>("megatron_pre_groups"),
    as<profiles::megatron(scored(sized(15, 4, 1, 2.5), sigmoid, true)), X>("megatron_sigmoid"),
    as<profiles::megatron(scored(sized(18, 6, 0, 1, 3, 2), sigmoid, true)), X>(
        "megatron_sigmoid_groups"),
    as<profiles::megatron(scored(sized(15, 1), sigmoid)), X>("megatron_sigmoid_one"),
    as<profiles::megatron(scored(sized(15, 3, 0, 1.5), sqrt_softplus, true)), X>(
        "megatron_softplus"),
    as<profiles::mixtral(sized(8, 2)), X>("mixtral"),
    as<profiles::qwen2_moe(sized(15, 4, 2)), X>("qwen2_moe"),
    as<profiles::qwen2_moe(sized(15, 4, 2), true), X>("qwen2_moe_norm"),
    as<profiles::qwen3_moe(sized(16, 4)), X>("qwen3_moe"),
    as<profiles::olmoe(sized(15, 4)), X>("olmoe"),
    as<profiles::llama_cpp(renormalised(scored(sized(16, 4, 1, 2.5, 4, 2), sigmoid, true))), X>(
        "llama_cpp"),
    as<profiles::llama_cpp(renormalised(sized(15, 3))), X>("llama_cpp_softmax"),
    as<profiles::llama_cpp(renormalised(scored(sized(15, 2), sigmoid))), X>("llama_cpp_floor"),
    as<profiles::deepseek_v4(sized(15, 3, 1, 1.5)), X>("deepseek_v4"),
    as<profiles::deepseek_v4(within(0.4375f, sized(15, 3, 1, 1.5))), X>("deepseek_v4_limit"),
    as<profiles::deepseek_v4_hash(sized(15, 3, 1, 1.5), 32), X>("deepseek_v4_hash"),
    as<profiles::ernie_4_5(sized(15, 4, 2)), X>("ernie_4_5"),
};

}  // namespace golden::of_published
