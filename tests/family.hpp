// One small layer for each kind of router that there is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/config/ladder.hpp>
#include <finegrain/config/profiles.hpp>
#include <finegrain/plan/batch.hpp>
#include <vector>

namespace family {

namespace fg = finegrain;

inline constexpr int D = 8, vocabulary = 11;
constexpr fg::config base{.hidden = D, .width = 3, .routed = 6, .top_k = 2, .shared = 1};
template <class Change>
constexpr fg::config with(Change change) {
  fg::config c = base;
  change(c);
  return fg::checked(c);
}
constexpr auto grouped = [](fg::config& c) { c.groups = 3, c.group_limit = 2; };
constexpr fg::config in_groups = with(grouped);

/// Those that compute in the executor's numbers.
using exact = fg::ladder<
    fg::profiles::switch_top1(base), fg::profiles::gshard_top2(base),
    fg::profiles::hash_layer(base, vocabulary), fg::profiles::deepseek_v2_hf(in_groups, true),
    fg::profiles::deepseek_v3_hf(in_groups), fg::profiles::megatron(in_groups),
    fg::profiles::megatron(base, true), fg::profiles::llama_cpp(with([](fg::config& c) {
      c.renormalise = true, c.groups = 3, c.group_limit = 2, c.scale = 2;
    })),
    fg::profiles::deepseek_v4_hash(base, vocabulary),
    with([](fg::config& c) { c.by_logits = true, c.bias = true, c.score = fg::score::sigmoid; }),
    with([](fg::config& c) { c.selection = fg::selection::expert_choice; }),
    with([](fg::config& c) { c.selection = fg::selection::sinkhorn; }),
    with([](fg::config& c) { c.by_logits = c.renormalise = c.noisy = true, c.epsilon = 0; }),
    with([](fg::config& c) { c.cosine = 4; }),
    with([](fg::config& c) { c.cosine = 4, c.noisy = true; }),
    with([](fg::config& c) { c.top_k = c.routed; }),
    with([](fg::config& c) { c.shared_gate = true, c.shared_scale = 0.5f, c.scale = 0.5f; }),
    with([](fg::config& c) { c.precision = fg::precision::f64, c.jitter = true; })>;
/// Those that round to bf16.
using rounded =
    fg::ladder<fg::profiles::deepseek_v1_hf(base, true), fg::profiles::deepseek_v3_official(base),
               fg::profiles::mixtral(base), fg::profiles::qwen2_moe(base)>;

/// Those whose logits anything may make.
using given =
    fg::ladder<base, with([](fg::config& c) { c.top_k = 1; }), fg::profiles::gshard_top2(base),
               fg::profiles::deepseek_v2_hf(in_groups, true),
               fg::profiles::deepseek_v3_hf(in_groups),
               fg::profiles::deepseek_v4_hash(base, vocabulary), with([](fg::config& c) {
                 c.by_logits = c.bias = true, c.score = fg::score::sigmoid;
               }),
               with([](fg::config& c) { c.selection = fg::selection::expert_choice; }),
               with([](fg::config& c) { c.selection = fg::selection::sinkhorn; }),
               with([](fg::config& c) { c.shared = 0; }),
               with([](fg::config& c) { c.shared_gate = true, c.shared_scale = 0.5f; })>;

/// Every loss, alone.
inline std::vector<fg::balance_losses> losses() {
  constexpr auto sequence = fg::window::sequence;
  return {{.expert = 0.5},
          {.device = 0.5},
          {.communication = 0.5},
          {.sequence = 0.5},
          {.z = 0.5},
          {.importance = 0.5},
          {.expert = 0.5, .over = sequence},
          {.expert = 0.2, .device = 0.5, .communication = 0.7, .over = sequence}};
}

/// Token ids for hash routers, sequences for losses, and a seed for chance.
struct tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> starts;
  explicit tokens(std::int64_t count) : starts{0, count / 3, count / 3, count} {
    for (std::int64_t t = 0; t < count; ++t)
      ids.push_back(static_cast<std::int32_t>(t * 7 % vocabulary));
  }
  fg::batch batch(fg::routing_request routing = {}, bool jitter = false) const {
    if (jitter) routing.jitter = 0.2;
    routing.seed = 3;
    return {.tokens = static_cast<std::int64_t>(ids.size()),
            .ids = ids,
            .starts = starts,
            .routing = routing};
  }
};

}  // namespace family
