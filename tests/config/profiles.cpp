// The published routers: what each sets, and where two of them say the same.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/profiles.hpp>

#include "../catch.hpp"

namespace {

namespace fg = finegrain;
namespace profiles = fg::profiles;
using fg::config;

constexpr config v3{.hidden = 64,
                    .width = 32,
                    .routed = 32,
                    .top_k = 8,
                    .shared = 1,
                    .score = fg::score::sigmoid,
                    .scale = 2.5f,
                    .groups = 8,
                    .group_limit = 4,
                    .bias = true};
constexpr config plain{.hidden = 64, .width = 32, .routed = 16, .top_k = 4};

/// The same but for what two ways to count groups' best two call it.
constexpr config by_best_two(config c) {
  c.group_score = fg::group_score::top2_sum;
  return c;
}

// Megatron counts K / limit of a group's experts: two of V3's, as DeepSeek does.
static_assert(profiles::megatron(v3).group_score == fg::group_score::top_share_sum);
static_assert(by_best_two(profiles::megatron(v3)) == profiles::deepseek_v3_hf(v3));
// Softmax after top-k is Mixtral's softmax, top-k, divided, but for the arithmetic.
constexpr config after = [] {
  config c = profiles::mixtral(plain);
  c.precision = fg::precision::f32;
  c.by_logits = true;  // softmax keeps the order
  return c;
}();
static_assert(profiles::megatron(plain) == after);
static_assert(profiles::qwen3_moe(plain) == profiles::mixtral(plain));
static_assert(profiles::olmoe(plain) == profiles::qwen2_moe(plain));
static_assert(profiles::qwen3_moe(plain, false) == profiles::olmoe(plain));
static_assert(profiles::deepseek_v2_hf(plain) == plain);
static_assert(profiles::megatron(plain, true) == plain);

// A profile leaves nothing of the router that the config had.
constexpr config other = [] {
  config c = plain;
  c.score = fg::score::sqrt_softplus;
  c.renormalise = c.by_logits = c.jitter = c.noisy = c.bias = true;
  c.precision = fg::precision::f64;
  c.cosine = 4;
  c.epsilon = 0.5f, c.floor = 0.25f;
  return c;
}();
constexpr bool forgets(config (*profile)(config)) { return profile(other) == profile(plain); }
static_assert(forgets([](config c) { return profiles::deepseek_v1_hf(c); }));
static_assert(forgets([](config c) { return profiles::deepseek_v2_hf(c); }));
static_assert(forgets([](config c) { return profiles::deepseek_v3_hf(c); }));
static_assert(forgets(profiles::deepseek_v3_official));
static_assert(forgets(profiles::deepseek_v4));
static_assert(forgets([](config c) { return profiles::deepseek_v4_hash(c, 100); }));
static_assert(forgets(profiles::ernie_4_5));
static_assert(forgets(profiles::mixtral));
static_assert(forgets([](config c) { return profiles::qwen2_moe(c); }));
static_assert(forgets([](config c) { return profiles::qwen3_moe(c); }));
static_assert(forgets([](config c) { return profiles::olmoe(c); }));
static_assert(forgets(profiles::switch_top1));
static_assert(forgets(profiles::gshard_top2));
static_assert(forgets([](config c) { return profiles::hash_layer(c, 100); }));
// Two take its score and bias, one of them renormalise and by_logits.
constexpr config kept = [] {
  config c = plain;
  c.score = other.score;
  c.renormalise = c.bias = true;
  return c;
}();
static_assert(profiles::megatron(other) == profiles::megatron(kept));
static_assert(profiles::megatron(kept).bias && profiles::megatron(kept).score == other.score);
static_assert(profiles::llama_cpp(kept).renormalise && profiles::llama_cpp(kept).bias);
static_assert(profiles::llama_cpp(kept).floor > 0 && !profiles::llama_cpp(kept).by_logits);
constexpr fg::config chosen_logits = [] {
  fg::config c = kept;
  c.by_logits = true, c.renormalise = false;
  return profiles::llama_cpp(c);
}();
static_assert(chosen_logits.by_logits && chosen_logits.renormalise && chosen_logits.floor == 0);
static_assert(profiles::llama_cpp(other) == chosen_logits);

static_assert(profiles::deepseek_v1_hf(plain).precision == fg::precision::bf16);
static_assert(!profiles::deepseek_v1_hf(plain).renormalise);

// V2 renormalises or scales, not both.
constexpr config scaled = [] {
  config c = plain;
  c.scale = 16;
  return c;
}();
static_assert(profiles::deepseek_v2_hf(scaled).scale == 16);
static_assert(profiles::deepseek_v2_hf(scaled, true).scale == 1);
static_assert(profiles::deepseek_v3_hf(scaled).scale == 16);

static_assert(profiles::ernie_4_5(scaled).scale == 1);

// V3's own inference has the bias in the model of 7168 alone, and without it other groups.
constexpr config large = [] {
  config c = v3;
  c.hidden = 7168;
  return c;
}();
static_assert(profiles::deepseek_v3_official(large).bias);
static_assert(!profiles::deepseek_v3_official(v3).bias);
static_assert(profiles::deepseek_v3_official(v3).group_score == fg::group_score::max);

// Groups stay where the implementation knows them, and nowhere else.
constexpr config without_groups = [] {
  config c = v3;
  c.groups = c.group_limit = 1;
  return c;
}();
constexpr bool knows_groups(config (*profile)(config)) {
  return profile(v3) != profile(without_groups);
}
static_assert(knows_groups([](config c) { return profiles::deepseek_v2_hf(c); }));
static_assert(knows_groups([](config c) { return profiles::deepseek_v3_hf(c); }));
static_assert(knows_groups(profiles::deepseek_v3_official));
static_assert(knows_groups([](config c) { return profiles::megatron(c); }));
static_assert(knows_groups([](config c) { return profiles::llama_cpp(c); }));
static_assert(!knows_groups([](config c) { return profiles::deepseek_v1_hf(c); }));
static_assert(!knows_groups(profiles::deepseek_v4));
static_assert(!knows_groups(profiles::ernie_4_5));
static_assert(!knows_groups(profiles::mixtral));
static_assert(!knows_groups([](config c) { return profiles::qwen2_moe(c); }));
static_assert(!knows_groups(profiles::switch_top1));
static_assert(!knows_groups(profiles::gshard_top2));
static_assert(!knows_groups([](config c) { return profiles::hash_layer(c, 100); }));

static_assert(profiles::qwen2_moe(v3).shared_gate);
static_assert(!profiles::qwen2_moe(plain).shared_gate);
static_assert(profiles::switch_top1(plain).top_k == 1);
static_assert(profiles::gshard_top2(plain).chance_second);
static_assert(profiles::hash_layer(plain, 100).uniform);
static_assert(!profiles::deepseek_v4_hash(plain, 100).uniform);

TEST_CASE("profiles of models without shared experts refuse them in a sentence") {
  CHECK_THROWS_WITH(profiles::qwen3_moe(v3), ContainsSubstring("no shared experts"));
  CHECK_THROWS_WITH(profiles::olmoe(v3), ContainsSubstring("no shared experts"));
}

}  // namespace
