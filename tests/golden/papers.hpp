// The configs of golden.jsonl that papers have, and those of losses, capacities and requests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "golden.hpp"

namespace golden::of_papers {

namespace profiles = fg::profiles;
using fg::config;

constexpr config sized(int routed, int top_k, int shared, config c = {}) {
  c.hidden = D;
  c.width = F;
  c.routed = routed;
  c.top_k = top_k;
  c.shared = shared;
  return c;
}
constexpr config without_chance(config c) {
  c.chance_second = false;
  return c;
}
inline constexpr auto sigmoid = fg::score::sigmoid;
inline constexpr auto expert_choice = fg::selection::expert_choice,
                      sinkhorn = fg::selection::sinkhorn;

template <class X>
constexpr known<X> papers[] = {
    as<profiles::switch_top1(sized(15, 1, 0)), X>("switch"),
    as<profiles::gshard_top2(sized(15, 2, 0)), X>("gshard"),
    as<without_chance(profiles::gshard_top2(sized(15, 2, 0))), X>("gshard_without_chance"),
    as<profiles::hash_layer(sized(15, 2, 0), 32), X>("hash_layer"),
    as<sized(15, 2, 1, {.selection = expert_choice}), X>("expert_choice"),
    as<sized(6, 3, 0, {.score = sigmoid, .scale = 2.5, .selection = expert_choice}), X>(
        "expert_choice_sigmoid"),
    as<sized(15, 2, 0, {.selection = sinkhorn}), X>("sinkhorn"),
    as<sized(15, 1, 0, {.score = sigmoid, .selection = sinkhorn}), X>("sinkhorn_one"),
    as<sized(15, 2, 1, {.cosine = 5}), X>("cosine"),
    as<sized(6, 3, 0, {.renormalise = true, .cosine = 4}), X>("cosine_norm"),
    as<sized(4, 4, 1), X>("dense"),
    as<sized(5, 5, 0, {.score = sigmoid}), X>("dense_sigmoid"),
    as<sized(15, 3, 2, {.score = sigmoid, .renormalise = true, .bias = true, .shared_scale = 0.5}),
       X>("shared_scale"),
    as<sized(15, 3, 2, {.shared_gate = true, .shared_scale = 0.25}), X>("shared_scale_gate"),
    as<sized(16, 3, 1), X>("softmax"),
    as<sized(16, 3, 1, {.precision = fg::precision::f64}), X>("softmax_f64"),
    as<sized(16, 3, 1, {.score = sigmoid, .renormalise = true, .scale = 2.5, .bias = true}), X>(
        "sigmoid"),
    as<sized(15, 3, 1, {.act = fg::activation::geglu}), X>("geglu"),
    as<sized(15, 3, 1, {.act = fg::activation::reglu}), X>("reglu"),
    as<sized(6, 3, 1, {.act = {fg::activation::geglu, 0.25f}}), X>("geglu_limit"),
};

}  // namespace golden::of_papers
