// Latent attention, and whole models in DeepSeek-V2's and V3's published form, against what PyTorch made
// of the published formulas in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>

#include "models.hpp"

namespace {

using namespace golden;
constexpr char const* lines = FINEGRAIN_GOLDEN_LATENT;

constexpr fg::yarn as_published(float mscale, float mscale_all) {
  return {.factor = 40, .original = 4096, .mscale = mscale, .mscale_all = mscale_all};
}
using straight =
    fg::latent_attention<7, 3, fg::latent{.kv_rank = 9, .nope = 5, .rope = 4, .value = 6}>;
using compressed = fg::latent_attention<
    7, 2, fg::latent{.q_rank = 5, .kv_rank = 6, .nope = 4, .rope = 6, .value = 3, .theta = 50000}>;
using with_yarn = fg::latent_attention<7, 2,
                                       fg::latent{.q_rank = 6,
                                                  .kv_rank = 8,
                                                  .nope = 4,
                                                  .rope = 12,
                                                  .value = 5,
                                                  .yarn = as_published(0.75f, 0.5f)}>;
using with_short = fg::latent_attention<
    7, 2,
    fg::latent{
        .kv_rank = 8,
        .nope = 4,
        .rope = 16,
        .value = 5,
        .yarn = {.factor = 4, .original = 64, .fast = 8, .slow = 2, .mscale = 1, .mscale_all = 1}}>;

constexpr fg::architecture v2{
    .hidden = 16,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 1,
    .dense_width = 24,
    .moe = {.hidden = 16, .width = 6, .routed = 8, .top_k = 3, .shared = 2},
    .latent = {
        .kv_rank = 10, .nope = 6, .rope = 4, .value = 5, .yarn = as_published(0.75f, 0.75f)}};
constexpr fg::architecture v3{
    .hidden = 16,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 2,
    .dense_width = 24,
    .moe = {.hidden = 16,
            .width = 6,
            .routed = 16,
            .top_k = 4,
            .shared = 1,
            .score = fg::score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .groups = 4,
            .group_limit = 2,
            .group_score = fg::group_score::top2_sum,
            .bias = true},
    .latent = {
        .q_rank = 9, .kv_rank = 11, .nope = 5, .rope = 4, .value = 5, .yarn = as_published(1, 1)}};

template <class X>
void check_stages(double tolerance) {
  check_stage<straight, X>(lines, "straight", tolerance);
  check_stage<compressed, X>(lines, "compressed", tolerance);
  check_stage<with_yarn, X>(lines, "yarn", tolerance);
  check_stage<with_short, X>(lines, "short", tolerance);
}

TEST_CASE("the reference agrees with PyTorch on latent attention, values and gradients") {
  check_stages<fg::reference>(1e-10);
}

TEST_CASE("the cpu agrees with PyTorch on latent attention, values and gradients") {
  check_stages<fg::cpu>(1e-5);
}

TEST_CASE("models of V2's and V3's form, read whole by published names, agree with PyTorch") {
  check_model<v2, fg::reference>(lines, "v2", 1e-10);
  check_model<v3, fg::reference>(lines, "v3", 1e-10);
  check_model<v2, fg::cpu>(lines, "v2", 1e-5);
  check_model<v3, fg::cpu>(lines, "v3", 1e-5);
}

/// GLM-4.7-Flash, small.
constexpr fg::architecture flash = [] {
  fg::architecture a = fg::presets::glm_4_7_flash;
  a.hidden = a.moe.hidden = 16;
  a.layers = 3;
  a.vocabulary = 32;
  a.dense_width = 24;
  a.moe.width = 6;
  a.moe.routed = 8;
  a.moe.top_k = 3;
  a.latent.q_rank = 9, a.latent.kv_rank = 11, a.latent.nope = 6, a.latent.rope = 4,
  a.latent.value = 10;
  return a;
}();
constexpr fg::architecture flash_2 = [] {
  fg::architecture a = flash;
  a.dense_layers = 2;
  return fg::checked(a);
}();
constexpr fg::architecture v2_limited = [] {
  fg::architecture a = v2;
  a.moe.groups = 4, a.moe.group_limit = 2;
  return fg::checked(a);
}();
/// Four: transformers wants heads to divide the hidden width.
constexpr fg::architecture even(fg::architecture a) {
  a.heads = 4;
  return a;
}

TEST_CASE("models of their form go to transformers and back, with exchange.py", "[.exchange]") {
  exchange<even(v2)>("deepseek_v2", fg::families::deepseek_v2);
  exchange<even(v2_limited)>("deepseek_v2 groups", fg::families::deepseek_v2);
  exchange<even(v3)>("deepseek_v3", fg::families::deepseek_v3);
  exchange<even(flash)>("glm4_moe_lite", fg::families::glm4_moe_lite);
  exchange<even(flash_2)>("glm4_moe_lite two dense", fg::families::glm4_moe_lite);
}

}  // namespace
