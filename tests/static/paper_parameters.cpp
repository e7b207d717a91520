// The parameters that papers and released checkpoints print, from the presets' expressions.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/budget.hpp>
#include <finegrain/config/presets.hpp>
#include <finegrain/expr/cost.hpp>
#include <finegrain/expr/decoder.hpp>

#include "paper.hpp"

namespace fg = finegrain;
namespace presets = fg::presets;

namespace {

/// Whether so many numbers are what a source prints in billions.
constexpr bool prints(std::int64_t exact, double source, double tolerance = 0.05) {
  double const apart = static_cast<double>(exact) / 1e9 - source;
  return -tolerance <= apart && apart <= tolerance;
}

template <fg::architecture A>
constexpr std::int64_t total = fg::parameters(fg::decoder<A>{});
template <fg::architecture A>
constexpr std::int64_t active = fg::active_parameters(fg::decoder<A>{});
/// Active, without the input embedding, which only looks a row up.
template <fg::architecture A>
constexpr std::int64_t multiplied = active<A> - std::int64_t{A.vocabulary} * A.hidden;

// ---- DeepSeekMoE 16B: all inputs published ----
constexpr auto moe_16b = presets::deepseek_moe_16b;
static_assert(total<moe_16b> == 16'375'728'128 && prints(total<moe_16b>, 16.4));
static_assert(active<moe_16b> == 2'828'650'496 && prints(active<moe_16b>, 2.8));
static_assert(multiplied<moe_16b> == 2'618'935'296);
constexpr std::int64_t bytes_16b = 2 * total<moe_16b>;  // in bf16
static_assert(bytes_16b == 32'751'456'256);
static_assert(bytes_16b < 40'000'000'000, "the 16B model fits on one GPU of 40 GB");

// ---- DeepSeekMoE 145B and its companions: widths inferred ----
constexpr auto moe_145b = presets::deepseek_moe_145b;
static_assert(total<moe_145b> == 144'612'773'888 && prints(total<moe_145b>, 144.6));
static_assert(active<moe_145b> == 22'187'331'584 && prints(active<moe_145b>, 22.2));

/// With a first layer of width 10944 it would not be what the paper prints.
constexpr fg::architecture with_dense_width(fg::architecture a, int width) {
  a.dense_width = width;
  return fg::checked(a);
}
static_assert(!prints(total<with_dense_width(moe_145b, 10944)>, 144.6));
static_assert(!prints(active<with_dense_width(moe_145b, 10944)>, 22.2));

constexpr fg::architecture with_experts(fg::architecture a, int width, int routed, int top_k,
                                        int shared) {
  a.moe = {.hidden = a.hidden, .width = width, .routed = routed, .top_k = top_k, .shared = shared};
  return fg::checked(a);
}
constexpr auto gshard_137b = with_experts(moe_145b, 10944, 16, 2, 0);
static_assert(total<gshard_137b> == 136'525'434'880 && prints(total<gshard_137b>, 136.5));
static_assert(active<gshard_137b> == 21'679'624'192 && prints(active<gshard_137b>, 21.6, 0.1));
// Unrounded widths, 32768 / 3 and 65536 / 3, give the active count; not the printed total, 136.5.
constexpr std::int64_t h = 4096, layers = 62;
constexpr std::int64_t around = 2 * 102400 * h + layers * 4 * h * h + 2 * paper::standard_ffn(h) +
                                (layers - 1) * 16 * h + (2 * layers + 1) * h;
constexpr auto gshard_unrounded = around + (layers - 1) * 16 * paper::standard_ffn(h);
constexpr auto gshard_unrounded_active = around + (layers - 1) * 2 * paper::standard_ffn(h);
static_assert(gshard_unrounded == 136'269'058'048 && !prints(gshard_unrounded, 136.5));
static_assert(gshard_unrounded_active == 21'647'118'336 && prints(gshard_unrounded_active, 21.6));

constexpr auto half_142b = with_experts(with_dense_width(moe_145b, 10944), 1408, 128, 6, 2);
static_assert(total<half_142b> == 142'367'510'528 && prints(total<half_142b>, 142.3, 0.07));
static_assert(active<half_142b> == 13'609'717'760);  // the paper prints 12.2, which nothing gives

// ---- dense models: all inputs published ----
static_assert(total<presets::llama2_7b> == 6'738'415'616 && prints(total<presets::llama2_7b>, 6.7));
static_assert(total<presets::deepseek_7b> == 6'910'365'696 &&
              prints(total<presets::deepseek_7b>, 6.9));
static_assert(total<presets::deepseek_67b> == 67'425'001'472 &&
              prints(total<presets::deepseek_67b>, 67.4));
static_assert(active<presets::deepseek_67b> == total<presets::deepseek_67b>);

// ---- DeepSeek-V2, V3: all inputs published; 2.4 and 36.7 are without the input embedding ----
constexpr auto v2_lite = presets::deepseek_v2_lite;
static_assert(total<v2_lite> == 15'706'484'224 && prints(total<v2_lite>, 15.7));
static_assert(active<v2_lite> == 2'661'150'208);
static_assert(multiplied<v2_lite> == 2'451'435'008 && prints(multiplied<v2_lite>, 2.4, 0.06));

constexpr auto v2 = presets::deepseek_v2;
static_assert(total<v2> == 235'741'434'880 && prints(total<v2>, 236, 0.5));
static_assert(active<v2> == 21'375'800'320 && prints(active<v2>, 21, 0.5));
static_assert(multiplied<v2> == 20'851'512'320 && prints(multiplied<v2>, 21, 0.5));

constexpr auto v3 = presets::deepseek_v3;
static_assert(total<v3> == 671'026'404'352 && prints(total<v3>, 671, 0.5));
static_assert(active<v3> == 37'552'282'624 && prints(active<v3>, 37, 0.6));
static_assert(multiplied<v3> == 36'625'603'584 && prints(multiplied<v3>, 36.7, 0.1));

// ---- of V3's form: 15.29 and 2.24 are without embedding and head ----
constexpr auto moonlight = presets::moonlight_16b_a3b;
constexpr std::int64_t moonlight_ends = 2LL * moonlight.vocabulary * moonlight.hidden;
static_assert(total<moonlight> == 15'960'108'544 && prints(total<moonlight>, 16));
static_assert(prints(total<moonlight> - moonlight_ends, 15.29, 0.005));
static_assert(prints(active<moonlight> - moonlight_ends, 2.24, 0.005));

constexpr auto k2 = presets::kimi_k2;
static_assert(total<k2> == 1'026'408'209'408 && prints(total<k2>, 1026, 0.5));
static_assert(multiplied<k2> == 31'687'072'768 && prints(multiplied<k2>, 32, 0.5));
static_assert(total<presets::dots_llm1> == 142'774'373'888);
static_assert(total<presets::glm_4_5> == 352'797'814'784);
static_assert(total<presets::glm_4_5_air> == 106'852'245'504);
static_assert(total<presets::glm_4_7_flash> == 29'943'390'976);
static_assert(total<presets::minimax_m2> == 228'689'748'992);
static_assert(prints(total<presets::dots_llm1>, 142, 1) &&
              prints(active<presets::dots_llm1>, 14, 0.6));
static_assert(prints(total<presets::glm_4_5>, 355, 3) && prints(active<presets::glm_4_5>, 32, 2));
static_assert(prints(total<presets::glm_4_5_air>, 106, 2) &&
              prints(active<presets::glm_4_5_air>, 12, 1.5));
static_assert(prints(total<presets::glm_4_7_flash>, 30, 0.5) &&
              prints(active<presets::glm_4_7_flash>, 3, 1));
static_assert(prints(total<presets::minimax_m2>, 230, 2) &&
              prints(active<presets::minimax_m2>, 10, 1.1));

// ---- the 2B family: the vocabulary 8192 and the width, 8 h^2 unrounded, are inferred ----
/// So many tenths of a standard feed-forward block in a layer, and active in it.
constexpr paper::model family(int total_tenths, int active_tenths) {
  std::int64_t const block = paper::standard_ffn(1280);
  return {9, 1280, 8192, block * total_tenths / 10, block * active_tenths / 10};
}
struct counts {
  std::int64_t experts, active_experts, total, active;
  friend constexpr bool operator==(counts const&, counts const&) = default;
};
constexpr counts count(paper::model m) {
  return {m.layers * m.ffn, m.layers * m.active_ffn, paper::parameters(m),
          paper::active_parameters(m)};
}
constexpr counts dense = count(family(10, 10));
static_assert(dense == counts{117'964'800, 117'964'800, 197'918'720, 197'918'720});
static_assert(prints(dense.total, 0.2) && prints(dense.active, 0.2));
constexpr counts one_of_16 = count(family(160, 10));  // Hash Layer, Switch
static_assert(one_of_16 == counts{1'887'436'800, 117'964'800, 1'967'390'720, 197'918'720});
static_assert(prints(one_of_16.total, 2.0) && prints(one_of_16.active, 0.2));
constexpr counts two_of_16 = count(family(160, 20));  // GShard, DeepSeekMoE
static_assert(two_of_16 == counts{1'887'436'800, 235'929'600, 1'967'390'720, 315'883'520});
static_assert(prints(two_of_16.experts, 1.89, 0.005) &&
              prints(two_of_16.active_experts, 0.24, 0.005));
static_assert(prints(two_of_16.total, 2.0) && prints(two_of_16.active, 0.3));
constexpr counts gshard_1_2 = count(family(192, 24));
static_assert(gshard_1_2.experts == 2'264'924'160 && gshard_1_2.active_experts == 283'115'520);
static_assert(prints(gshard_1_2.experts, 2.3) && prints(gshard_1_2.active_experts, 0.28, 0.005));
constexpr counts gshard_1_5 = count(family(240, 30));
static_assert(gshard_1_5.experts == 2'831'155'200 && gshard_1_5.active_experts == 353'894'400);
static_assert(prints(gshard_1_5.experts, 2.83, 0.005) &&
              prints(gshard_1_5.active_experts, 0.35, 0.005));
static_assert(count(family(40, 40)).experts == 471'859'200 && prints(471'859'200, 0.47, 0.005));
static_assert(count(family(160, 160)).experts == 1'887'436'800);
// The preset's experts are whole numbers wide, 853 for 853 1/3; 896 would not be the paper's.
constexpr auto moe_2b = presets::deepseek_moe_2b;
static_assert(prints(9 * fg::expert_parameters(moe_2b.moe), 1.89, 0.005));
static_assert(prints(9 * fg::active_expert_parameters(moe_2b.moe), 0.24, 0.005));
static_assert(prints(total<moe_2b>, 2.0) && prints(active<moe_2b>, 0.3));
static_assert(!prints(9 * fg::expert_parameters(with_experts(moe_2b, 896, 63, 7, 1).moe), 1.89));

// ---- the 13B set of table 10: layers, hidden and vocabulary are inferred ----
constexpr paper::model set_13b(int total_tenths, int active_tenths) {
  std::int64_t const block = paper::standard_ffn(2048);
  return {24, 2048, 8192, block * total_tenths / 10, block * active_tenths / 10};
}
constexpr counts moe_13b = count(set_13b(160, 20));
static_assert(moe_13b.total == 13'321'109'504 && prints(moe_13b.total, 13.3));
static_assert(moe_13b.active == 2'046'820'352 && prints(moe_13b.active, 2.05, 0.005));
constexpr counts gshard_13b_1_2 = count(set_13b(192, 24));
static_assert(prints(gshard_13b_1_2.total, 15.898089881, 1e-7) &&
              prints(gshard_13b_1_2.total, 15.9));
static_assert(prints(gshard_13b_1_2.active, 2.368942899, 1e-7) &&
              prints(gshard_13b_1_2.active, 2.37, 0.005));
constexpr counts gshard_13b_1_5 = count(set_13b(240, 30));
static_assert(gshard_13b_1_5.total == 19'763'560'448 && prints(gshard_13b_1_5.total, 19.8));
static_assert(gshard_13b_1_5.active == 2'852'126'720);  // the paper prints 2.82

// ---- one mixture layer ----
static_assert(fg::parameters_of_one_expert(moe_16b.moe) == 8'650'752);
static_assert(64 * fg::parameters_of_one_expert(moe_16b.moe) == 553'648'128);
static_assert(fg::parameters(fg::shared_experts<moe_16b.moe>{}) == 17'301'504);
static_assert(fg::parameters(fg::routed_experts<moe_16b.moe>{}) == 553'648'128 + 131'072);
static_assert(fg::active_expert_parameters(moe_16b.moe) == 69'206'016);
static_assert(fg::parameters_of_one_expert(v3.moe) == 44'040'192);
static_assert(256 * fg::parameters_of_one_expert(v3.moe) == 11'274'289'152);
// All attention of the 16B model, "about 0.5"; of the 7B one the paper says 2.5, which it is not.
constexpr std::int64_t attention_16b = 28 * fg::parameters(fg::attention<2048, 16>{});
static_assert(attention_16b == 469'762'048 && prints(attention_16b, 0.5));
static_assert(30 * fg::parameters(fg::attention<4096, 32>{}) == 2'013'265'920);

// ---- other mixtures: what their checkpoints hold ----
static_assert(total<presets::mixtral_8x7b> == 46'702'792'704);
static_assert(active<presets::mixtral_8x7b> == 12'879'925'248);
static_assert(total<presets::mixtral_8x22b> == 140'620'634'112);
static_assert(total<presets::qwen1_5_moe_a2_7b> == 14'315'784'192);
static_assert(total<presets::qwen2_57b_a14b> == 57'408'658'944);
static_assert(total<presets::qwen3_30b_a3b> == 30'532'122'624);
static_assert(total<presets::qwen3_235b_a22b> == 235'093'634'560);
static_assert(total<presets::qwen3_coder_480b_a35b> == 480'154'875'392);
static_assert(prints(total<presets::qwen3_coder_480b_a35b>, 480, 0.5));
static_assert(prints(active<presets::qwen3_coder_480b_a35b>, 35, 1));
static_assert(total<presets::olmoe_1b_7b> == 6'919'161'856);
static_assert(total<presets::granite_3_1_1b_a400m> == 1'334'628'352);
static_assert(total<presets::ernie_4_5_21b_a3b> == 21'825'436'160);
static_assert(prints(total<presets::ernie_4_5_21b_a3b>, 21, 1) &&
              prints(active<presets::ernie_4_5_21b_a3b>, 3, 1));

}  // namespace
