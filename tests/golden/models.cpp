// Attention in the forms of published mixtures, and whole models of OLMoE, Qwen1.5, Qwen2, Qwen3, Mixtral,
// GLM-4.5 and MiniMax-M2 in their published form, against what PyTorch made of the published formulas in
// double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>

#include "models.hpp"

namespace {

using namespace golden;
constexpr char const* lines = FINEGRAIN_GOLDEN_MODELS;

template <fg::attention_form Form>
using stage = fg::attention<7, 4, 2, 6, Form>;
using biased = stage<fg::attention_form{.bias = true, .theta = 1e6}>;
using each = stage<fg::attention_form{.norm = fg::head_norm::each, .theta = 1e6}>;
using whole = stage<fg::attention_form{.norm = fg::head_norm::all, .epsilon = 1e-5}>;
using with_yarn = stage<fg::attention_form{.bias = true,
                                           .norm = fg::head_norm::each,
                                           .theta = 1000,
                                           .epsilon = 0.25,
                                           .yarn = {.factor = 4, .original = 64, .fast = 8}}>;

using with_both_scales = stage<fg::attention_form{
    .theta = 1000,
    .yarn = {.factor = 4, .original = 64, .fast = 8, .mscale = 0.75f, .mscale_all = 0.5f}}>;
using partial =
    stage<fg::attention_form{.bias = true, .norm = fg::head_norm::each, .rotary = 4, .theta = 1e6}>;

using scaled = stage<fg::attention_form{.theta = 1.5e6, .scale = 0.15}>;

/// A preset with few and small parts: what else it says is the model's.
constexpr fg::architecture small(fg::architecture a, int kv_heads, int head_dim, int top_k = 3) {
  a.hidden = a.moe.hidden = 16;
  a.layers = 3;
  a.vocabulary = 32;
  a.heads = 4;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.moe.width = 6;
  a.moe.routed = 8;
  a.moe.top_k = top_k;
  if (a.dense_layers > 0) a.dense_layers = 1, a.dense_width = 24;
  if (a.attention.rotary > 0) a.attention.rotary = 4;
  return fg::checked(a);
}
constexpr auto olmoe = small(fg::presets::olmoe_1b_7b, 4, 4);
constexpr auto qwen1_5 = small(fg::presets::qwen1_5_moe_a2_7b, 2, 4);
constexpr auto qwen3 = small(fg::presets::qwen3_30b_a3b, 2, 6);
constexpr auto qwen3_tied = [] {
  fg::architecture a = qwen3;
  a.tied = true;
  return a;
}();
/// As the small models of that family are: dense, and tied.
constexpr auto qwen3_dense = [] {
  fg::architecture a = qwen3_tied;
  a.dense_layers = a.layers;
  a.dense_width = 24;
  a.moe = {};
  return fg::checked(a);
}();
constexpr auto mixtral = small(fg::presets::mixtral_8x7b, 2, 4, 2);
/// Heads' numbers together are not as many as a token's.
constexpr auto mixtral_wide = small(fg::presets::mixtral_8x7b, 2, 6, 2);
constexpr auto glm = small(fg::presets::glm_4_5, 2, 6);
constexpr auto minimax = small(fg::presets::minimax_m2, 2, 6);
/// Of whose heads' numbers a part is turned that transformers does not find by dividing.
constexpr auto minimax_divided = [] {
  fg::architecture a = small(fg::presets::minimax_m2, 2, 44);
  a.attention.rotary = 30;
  return fg::checked(a);
}();
constexpr auto ernie = small(fg::presets::ernie_4_5_21b_a3b, 2, 6);
constexpr auto dots = small(fg::presets::dots_llm1, 4, 4);

constexpr auto granite = [] {
  fg::architecture a = fg::presets::granite_3_1_1b_a400m;
  a.attention.scale = 0.15;  // of heads of 4 numbers 1 / sqrt is 0.5
  return small(a, 2, 4);
}();
constexpr auto granite_shared = [] {
  fg::architecture a = granite;
  a.moe.shared = 2;
  return fg::checked(a);
}();
constexpr auto granite_wide = [] {
  fg::architecture a = granite;
  a.head_dim = 6;
  return fg::checked(a);
}();
/// With two dense layers, which no published model of their families has but their configs can say.
constexpr fg::architecture begun_dense(fg::architecture a) {
  a.dense_layers = 2, a.dense_width = 24;
  return fg::checked(a);
}
constexpr fg::architecture slowed(fg::architecture a) {
  a.attention.yarn = {.factor = 4, .original = 8, .fast = 8, .mscale = 0.75f, .mscale_all = 0.5f};
  return fg::checked(a);
}

template <class X>
void check_stages(double tolerance) {
  check_stage<biased, X>(lines, "biased", tolerance);
  check_stage<each, X>(lines, "each", tolerance);
  check_stage<whole, X>(lines, "all", tolerance);
  check_stage<with_yarn, X>(lines, "yarn", tolerance);
  check_stage<with_both_scales, X>(lines, "yarn_all", tolerance);
  check_stage<partial, X>(lines, "partial", tolerance);
  check_stage<scaled, X>(lines, "scaled", tolerance);
}
template <class X>
void check_models(double tolerance) {
  check_model<olmoe, X>(lines, "olmoe", tolerance);
  check_model<qwen1_5, X>(lines, "qwen2_moe", tolerance, fg::qwen2_moe_name);
  check_model<qwen3, X>(lines, "qwen3_moe", tolerance);
  check_model<mixtral, X>(lines, "mixtral", tolerance, fg::mixtral_name);
  check_model<glm, X>(lines, "glm4_moe", tolerance);
  check_model<minimax, X>(lines, "minimax_m2", tolerance, fg::minimax_m2_name);
}

TEST_CASE("the reference agrees with PyTorch on attention of published forms, and gradients") {
  check_stages<fg::reference>(1e-10);
}

TEST_CASE("the cpu agrees with PyTorch on attention of published forms, and gradients") {
  check_stages<fg::cpu>(1e-5);
}

TEST_CASE("the reference agrees with PyTorch on whole models, read by published names") {
  check_models<fg::reference>(1e-10);
}

TEST_CASE("the cpu agrees with PyTorch on whole models, read by published names") {
  check_models<fg::cpu>(1e-5);
}

TEST_CASE("presets' configs go to transformers, with exchange.py", "[.exchange]") {
  namespace presets = fg::presets;
  exchange_defaults();
  exchange_config<presets::deepseek_v2>("preset deepseek_v2", fg::families::deepseek_v2);
  exchange_config<presets::deepseek_v2_lite>("preset deepseek_v2_lite", fg::families::deepseek_v2);
  exchange_config<presets::deepseek_v3>("preset deepseek_v3", fg::families::deepseek_v3);
  exchange_config<presets::moonlight_16b_a3b>("preset moonlight", fg::families::deepseek_v3);
  exchange_config<presets::kimi_k2>("preset kimi_k2", fg::families::deepseek_v3);
  exchange_config<presets::dots_llm1>("preset dots_llm1", fg::families::dots1);
  exchange_config<presets::glm_4_5>("preset glm_4_5", fg::families::glm4_moe);
  exchange_config<presets::glm_4_5_air>("preset glm_4_5_air", fg::families::glm4_moe);
  exchange_config<presets::glm_4_7_flash>("preset glm_4_7_flash", fg::families::glm4_moe_lite);
  exchange_config<presets::ernie_4_5_21b_a3b>("preset ernie_4_5", fg::families::ernie4_5_moe);
  exchange_config<presets::minimax_m2>("preset minimax_m2", fg::families::minimax_m2);
  exchange_config<presets::mixtral_8x7b>("preset mixtral_8x7b", fg::families::mixtral);
  exchange_config<presets::olmoe_1b_7b>("preset olmoe_1b_7b", fg::families::olmoe);
  exchange_config<presets::qwen2_57b_a14b>("preset qwen2_57b_a14b", fg::families::qwen2_moe);
  exchange_config<presets::qwen3_30b_a3b>("preset qwen3_30b_a3b", fg::families::qwen3_moe);
}

TEST_CASE("models go to transformers and back, with exchange.py", "[.exchange]") {
  exchange<olmoe>("olmoe", fg::families::olmoe);
  exchange<qwen1_5>("qwen2_moe", fg::families::qwen2_moe);
  exchange<begun_dense(qwen1_5)>("qwen2_moe dense at first", fg::families::qwen2_moe);
  exchange<qwen3>("qwen3_moe", fg::families::qwen3_moe);
  exchange<qwen3_tied>("qwen3_moe tied", fg::families::qwen3_moe);
  exchange<begun_dense(qwen3)>("qwen3_moe dense at first", fg::families::qwen3_moe);
  exchange<slowed(qwen3)>("qwen3_moe yarn", fg::families::qwen3_moe);
  exchange<qwen3_dense>("qwen3", fg::families::qwen3);
  exchange<mixtral>("mixtral", fg::families::mixtral);
  exchange<mixtral_wide>("mixtral wide", fg::families::mixtral);
  exchange<glm>("glm4_moe", fg::families::glm4_moe);
  exchange<dots>("dots1", fg::families::dots1);
  exchange<ernie>("ernie4_5_moe", fg::families::ernie4_5_moe);
  exchange<begun_dense(ernie)>("ernie4_5_moe dense at first", fg::families::ernie4_5_moe);
  exchange<slowed(ernie)>("ernie4_5_moe yarn", fg::families::ernie4_5_moe);
  exchange<minimax>("minimax_m2", fg::families::minimax_m2);
  exchange<minimax_divided>("minimax_m2 divided", fg::families::minimax_m2);
  exchange<granite>("granitemoe", fg::families::granitemoe);
  exchange<granite_wide>("granitemoe wide", fg::families::granitemoe);
  exchange<granite_shared>("granitemoeshared", fg::families::granitemoeshared);
  exchange<granite>("granitemoeshared without", fg::families::granitemoeshared);
}

}  // namespace
