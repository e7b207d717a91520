// The FLOPs that the DeepSeekMoE paper prints, by its own conventions.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>

#include "paper.hpp"

namespace fg = finegrain;

namespace {

/// Operations of training on one sequence: ffn is what a token runs through in a layer.
constexpr std::int64_t flops(std::int64_t tokens, std::int64_t layers, std::int64_t hidden,
                             std::int64_t vocabulary, std::int64_t ffn) {
  return paper::flops({layers, hidden, vocabulary, ffn, ffn}, tokens);
}

/// Whether so many operations are what the paper prints in TFLOP.
constexpr bool prints(std::int64_t exact, double source, double tolerance = 0.05) {
  double const apart = static_cast<double>(exact) / 1e12 - source;
  return -tolerance <= apart && apart <= tolerance;
}

/// Whether a ratio prints as so many percent.
constexpr bool percent(std::int64_t a, std::int64_t b, double source) {
  double const apart = 100.0 * static_cast<double>(a) / static_cast<double>(b) - source;
  return -0.05 <= apart && apart <= 0.05;
}

// The 2B family: 9 layers, h = 1280, sequences of 2048. Inferred: the vocabulary 8192, and the
// widths, which are those of 8 h^2 unrounded.
constexpr std::int64_t standard = paper::standard_ffn(1280);
constexpr std::int64_t family(std::int64_t ffn) { return flops(2048, 9, 1280, 8192, ffn); }

constexpr auto dense = family(standard);  // also Hash Layer and Switch: one expert a token
static_assert(dense == 2'882'996'797'440 && prints(dense, 2.9));
constexpr auto gshard = family(2 * standard);  // also DeepSeekMoE 2B
static_assert(gshard == 4'332'548'259'840 && prints(gshard, 4.3));
constexpr auto gshard_1_2 = family(standard * 24 / 10);
static_assert(gshard_1_2 == 4'912'368'844'800);  // not printed
constexpr auto gshard_1_5 = family(3 * standard);
static_assert(gshard_1_5 == 5'782'099'722'240 && prints(gshard_1_5, 5.8));
constexpr auto dense_4 = family(4 * standard);
static_assert(dense_4 == 7'231'651'184'640);  // not printed
constexpr auto dense_16 = family(16 * standard);
static_assert(dense_16 == 24'626'268'733'440 && prints(dense_16, 24.6));

// All inputs published.
constexpr auto llama2 = flops(4096, 32, 4096, 32000, paper::standard_ffn(4096));
static_assert(llama2 == 187'939'178'938'368 && prints(llama2, 187.9));
// With its real width, 11008, it would be 188.764.
constexpr auto llama2_real = flops(4096, 32, 4096, 32000, 3LL * 4096 * 11008);
static_assert(prints(llama2_real, 188.764, 0.0005) && !prints(llama2_real, 187.9));
constexpr auto deepseek_7b = flops(4096, 30, 4096, 102400, paper::standard_ffn(4096));
static_assert(deepseek_7b == 183'481'002'885'120 && prints(deepseek_7b, 183.5));
constexpr auto moe_16b = flops(4096, 28, 2048, 102400, 8 * paper::standard_ffn(2048) / 4);
static_assert(moe_16b == 74'423'193'305'088 && prints(moe_16b, 74.4));
constexpr auto gshard_137b = flops(4096, 62, 4096, 102400, 2 * paper::standard_ffn(4096));
static_assert(gshard_137b == 572'708'119'117'824 && prints(gshard_137b, 572.7));

// Inferred: attention of the 67B model counted as if it had as many key heads as query heads.
constexpr auto deepseek_67b = flops(4096, 95, 8192, 102400, paper::standard_ffn(8192));
static_assert(deepseek_67b == 2'057'461'133'475'840 && prints(deepseek_67b, 2057.5));
// Inferred: the width 1408. The tolerance is wider, 0.11 of it unexplained.
constexpr auto moe_145b = flops(4096, 62, 4096, 102400, 3LL * 4096 * 1408 * 16);
static_assert(moe_145b == 585'489'941'790'720 && prints(moe_145b, 585.6, 0.12));
// Inferred: the width 1408.
constexpr auto moe_142b_half = flops(4096, 62, 4096, 102400, 3LL * 4096 * 1408 * 8);
static_assert(moe_142b_half == 374'589'867'687'936 && prints(moe_142b_half, 374.6));

// Rows of other assumptions, which do not give what the paper prints.
constexpr auto moe_16b_real = flops(4096, 28, 2048, 102400, 3LL * 2048 * 1408 * 8);
static_assert(moe_16b_real == 75'866'302'316'544 && !prints(moe_16b_real, 74.4));
static_assert(!prints(gshard_137b, 585.6), "145B is not of unrounded width");
constexpr std::int64_t fewer_keys = 4LL * 8192 * 8192 - (2LL * 8192 * 8192 + 2LL * 8192 * 1024);
constexpr auto deepseek_67b_real = flops(4096, 95, 8192, 102400, 3LL * 8192 * 22016 - fewer_keys);
static_assert(deepseek_67b_real == 1'793'062'946'734'080 && !prints(deepseek_67b_real, 2057.5));

// The comparisons that the paper draws from these.
static_assert(percent(moe_16b, llama2, 39.6));  // 74.4 T of 187.9 T
static_assert(percent(744, 1835, 40.5));        // of DeepSeek 7B, from the numbers as printed
static_assert(percent(moe_145b, deepseek_67b, 28.5));
static_assert(percent(moe_142b_half, deepseek_67b, 18.2));

// Training tokens: batch times sequence length times steps, against 100B, 2T, 245B.
constexpr std::int64_t tokens_2b = 2048LL * 2048 * 25'000;
constexpr std::int64_t tokens_16b = 4608LL * 4096 * 106'449;
constexpr std::int64_t tokens_145b = 4608LL * 4096 * 13'000;
static_assert(tokens_2b == 104'857'600'000 && prints(tokens_2b, 0.1, 0.005));
static_assert(tokens_16b == 2'009'157'599'232 && prints(tokens_16b, 2.0, 0.01));
static_assert(tokens_145b == 245'366'784'000 && prints(tokens_145b, 0.245, 0.0005));

// Widths round up to a multiple of 64; 896 is not what the 2B models have.
static_assert(paper::width_rounded_up(2048, 4) == 1408);
static_assert(paper::width_rounded_up(4096, 8) == 1408);
static_assert(paper::width_rounded_up(1280, 4) == 896);
// The first layer's feed-forward block is two standard ones wide.
static_assert(fg::presets::deepseek_moe_16b.dense_width == 10944);
static_assert((2 * 8 * 2048 / 3 + 63) / 64 * 64 == 10944 &&
              (2 * 8 * 4096 / 3 + 63) / 64 * 64 == 21888);

// Ways of choosing experts.
static_assert(paper::combinations(16, 2) == 120 && paper::combinations(64, 8) == 4'426'165'368);
static_assert(paper::combinations(15, 1) == 15 && paper::combinations(31, 3) == 4495);
static_assert(paper::combinations(63, 7) == 553'270'671);

}  // namespace
