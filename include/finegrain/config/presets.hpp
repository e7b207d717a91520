// Published models in numbers. A preset's mixture layer is its `moe`: presets::deepseek_v3.moe.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "architecture.hpp"

namespace finegrain::inline FINEGRAIN_ABI::presets {

// What is not in these numbers is not in the models either: multi-token prediction (V3, GLM).

// ---- DeepSeekMoE [DeepSeekMoE 4.1.3, 5.1.2, 7.1] ----

/// The validation model: all layers are mixtures. An expert is 0.25 of a standard feed-forward
/// block, 853 1/3 wide; 853 reproduces the paper's totals, rounding up to 896 does not. The
/// vocabulary is printed as 8K.
inline constexpr architecture deepseek_moe_2b = checked(architecture{
    .hidden = 1280,
    .layers = 9,
    .vocabulary = 8192,
    .heads = 10,
    .kv_heads = 10,
    .head_dim = 128,
    .moe = {.hidden = 1280, .width = 853, .routed = 63, .top_k = 7, .shared = 1},
});

inline constexpr architecture deepseek_moe_16b = checked(architecture{
    .hidden = 2048,
    .layers = 28,
    .vocabulary = 102400,
    .heads = 16,
    .kv_heads = 16,
    .head_dim = 128,
    .dense_layers = 1,
    .dense_width = 10944,
    .moe = {.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2},
});

/// Not released: both widths are inferred, from the paper's totals and its rounding up to 64.
inline constexpr architecture deepseek_moe_145b = checked(architecture{
    .hidden = 4096,
    .layers = 62,
    .vocabulary = 102400,
    .heads = 32,
    .kv_heads = 32,
    .head_dim = 128,
    .dense_layers = 1,
    .dense_width = 21888,
    .moe = {.hidden = 4096, .width = 1408, .routed = 128, .top_k = 12, .shared = 4},
});

// ---- DeepSeek-V2, V3 ----

inline constexpr architecture deepseek_v2_lite = checked(architecture{
    .hidden = 2048,
    .layers = 27,
    .vocabulary = 102400,
    .heads = 16,
    .dense_layers = 1,
    .dense_width = 10944,
    .moe = {.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2},
    .latent = {.q_rank = 0,
               .kv_rank = 512,
               .nope = 128,
               .rope = 64,
               .value = 128,
               .yarn = {.factor = 40, .mscale = 0.707f, .mscale_all = 0.707f}},
});

inline constexpr architecture deepseek_v2 = checked(architecture{
    .hidden = 5120,
    .layers = 60,
    .vocabulary = 102400,
    .heads = 128,
    .dense_layers = 1,
    .dense_width = 12288,
    .moe = {.hidden = 5120,
            .width = 1536,
            .routed = 160,
            .top_k = 6,
            .shared = 2,
            .scale = 16.0f,
            .groups = 8,
            .group_limit = 3,
            .group_score = group_score::max},
    .latent = {.q_rank = 1536,
               .kv_rank = 512,
               .nope = 128,
               .rope = 64,
               .value = 128,
               .yarn = {.factor = 40, .mscale = 0.707f, .mscale_all = 0.707f}},
});

/// DeepSeek-V3, V3.1 and R1. V3.2's mixtures are these too, but its attention is sparse.
inline constexpr architecture deepseek_v3 = checked(architecture{
    .hidden = 7168,
    .layers = 61,
    .vocabulary = 129280,
    .heads = 128,
    .dense_layers = 3,
    .dense_width = 18432,
    .moe = {.hidden = 7168,
            .width = 2048,
            .routed = 256,
            .top_k = 8,
            .shared = 1,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .groups = 8,
            .group_limit = 4,
            .group_score = group_score::top2_sum,
            .bias = true},
    .latent = {.q_rank = 1536,
               .kv_rank = 512,
               .nope = 128,
               .rope = 64,
               .value = 128,
               .yarn = {.factor = 40, .mscale = 1, .mscale_all = 1}},
});

// ---- of V3's form ----

/// Moonlight [Liu et al. 2025, Muon is scalable for LLM training], which Muon trained.
inline constexpr architecture moonlight_16b_a3b = checked(architecture{
    .hidden = 2048,
    .layers = 27,
    .vocabulary = 163840,
    .heads = 16,
    .dense_layers = 1,
    .dense_width = 11264,
    .moe = {.hidden = 2048,
            .width = 1408,
            .routed = 64,
            .top_k = 6,
            .shared = 2,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 2.446f,
            .bias = true},
    .latent = {.kv_rank = 512, .nope = 128, .rope = 64, .value = 128, .theta = 50000},
    .epsilon = 1e-5,
});

/// Kimi K2 as first released, base and instruct [Kimi Team 2025]; later ones, as K2.6, have another
/// epsilon and YaRN of other numbers: load_published tells.
inline constexpr architecture kimi_k2 = checked(architecture{
    .hidden = 7168,
    .layers = 61,
    .vocabulary = 163840,
    .heads = 64,
    .dense_layers = 1,
    .dense_width = 18432,
    .moe = {.hidden = 7168,
            .width = 2048,
            .routed = 384,
            .top_k = 8,
            .shared = 1,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 2.827f,
            .bias = true},
    .latent = {.q_rank = 1536,
               .kv_rank = 512,
               .nope = 128,
               .rope = 64,
               .value = 128,
               .theta = 50000,
               .yarn = {.factor = 32, .fast = 1, .mscale = 1, .mscale_all = 1}},
});

inline constexpr architecture dots_llm1 = checked(architecture{
    .hidden = 4096,
    .layers = 62,
    .vocabulary = 152064,
    .heads = 32,
    .kv_heads = 32,
    .head_dim = 128,
    .dense_layers = 1,
    .dense_width = 10944,
    .moe = {.hidden = 4096,
            .width = 1408,
            .routed = 128,
            .top_k = 6,
            .shared = 2,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .bias = true},
    .attention = {.norm = head_norm::each, .theta = 1e7, .epsilon = 1e-5},
    .epsilon = 1e-5,
});

/// GLM-4.5, 4.6 and 4.7. (Like V3's, its layer for multi-token prediction is left out.)
inline constexpr architecture glm_4_5 = checked(architecture{
    .hidden = 5120,
    .layers = 92,
    .vocabulary = 151552,
    .heads = 96,
    .kv_heads = 8,
    .head_dim = 128,
    .dense_layers = 3,
    .dense_width = 12288,
    .moe = {.hidden = 5120,
            .width = 1536,
            .routed = 160,
            .top_k = 8,
            .shared = 1,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .bias = true},
    .attention =
        {.bias = true, .norm = head_norm::each, .rotary = 64, .theta = 1e6, .epsilon = 1e-5},
    .epsilon = 1e-5,
});

inline constexpr architecture glm_4_5_air = checked(architecture{
    .hidden = 4096,
    .layers = 46,
    .vocabulary = 151552,
    .heads = 96,
    .kv_heads = 8,
    .head_dim = 128,
    .dense_layers = 1,
    .dense_width = 10944,
    .moe = {.hidden = 4096,
            .width = 1408,
            .routed = 128,
            .top_k = 8,
            .shared = 1,
            .score = score::sigmoid,
            .renormalise = true,
            .bias = true},
    .attention = {.bias = true, .rotary = 64, .theta = 1e6},
    .epsilon = 1e-5,
});

/// GLM-4.7-Flash, whose attention is latent; its heads are wider than V3's.
inline constexpr architecture glm_4_7_flash = checked(architecture{
    .hidden = 2048,
    .layers = 47,
    .vocabulary = 154880,
    .heads = 20,
    .dense_layers = 1,
    .dense_width = 10240,
    .moe = {.hidden = 2048,
            .width = 1536,
            .routed = 64,
            .top_k = 4,
            .shared = 1,
            .score = score::sigmoid,
            .renormalise = true,
            .scale = 1.8f,
            .bias = true},
    .latent = {.q_rank = 768, .kv_rank = 512, .nope = 192, .rope = 64, .value = 256, .theta = 1e6f},
    .epsilon = 1e-5,
});

/// MiniMax-M2, M2.5 and M2.7: no shared experts; the chosen scores are divided by their bare sum.
inline constexpr architecture minimax_m2 = checked(architecture{
    .hidden = 3072,
    .layers = 62,
    .vocabulary = 200064,
    .heads = 48,
    .kv_heads = 8,
    .head_dim = 128,
    .moe = {.hidden = 3072,
            .width = 1536,
            .routed = 256,
            .top_k = 8,
            .score = score::sigmoid,
            .renormalise = true,
            .bias = true,
            .epsilon = 0},
    .attention = {.norm = head_norm::all, .rotary = 64, .theta = 5e6},
});

// ---- other mixtures ----

/// Softmax over the chosen two equals softmax over all eight, renormalised.
inline constexpr architecture mixtral_8x7b = checked(architecture{
    .hidden = 4096,
    .layers = 32,
    .vocabulary = 32000,
    .heads = 32,
    .kv_heads = 8,
    .head_dim = 128,
    .moe = {.hidden = 4096, .width = 14336, .routed = 8, .top_k = 2, .renormalise = true},
    .attention = {.theta = 1e6},
    .epsilon = 1e-5,
});

inline constexpr architecture mixtral_8x22b = checked(architecture{
    .hidden = 6144,
    .layers = 56,
    .vocabulary = 32000,
    .heads = 48,
    .kv_heads = 8,
    .head_dim = 128,
    .moe = {.hidden = 6144, .width = 16384, .routed = 8, .top_k = 2, .renormalise = true},
    .attention = {.theta = 1e6},
    .epsilon = 1e-5,
});

/// One shared expert of width 5632 = 4 * 1408, weighted by a sigmoid.
inline constexpr architecture qwen1_5_moe_a2_7b = checked(architecture{
    .hidden = 2048,
    .layers = 24,
    .vocabulary = 151936,
    .heads = 16,
    .kv_heads = 16,
    .head_dim = 128,
    .moe =
        {.hidden = 2048, .width = 1408, .routed = 60, .top_k = 4, .shared = 4, .shared_gate = true},
    .attention = {.bias = true, .theta = 1e6},
});

/// One shared expert of width 20480 = 8 * 2560, weighted by a sigmoid.
inline constexpr architecture qwen2_57b_a14b = checked(architecture{
    .hidden = 3584,
    .layers = 28,
    .vocabulary = 151936,
    .heads = 28,
    .kv_heads = 4,
    .head_dim = 128,
    .moe =
        {.hidden = 3584, .width = 2560, .routed = 64, .top_k = 8, .shared = 8, .shared_gate = true},
    .attention = {.bias = true, .theta = 1e6},
});

inline constexpr architecture qwen3_30b_a3b = checked(architecture{
    .hidden = 2048,
    .layers = 48,
    .vocabulary = 151936,
    .heads = 32,
    .kv_heads = 4,
    .head_dim = 128,
    .moe = {.hidden = 2048, .width = 768, .routed = 128, .top_k = 8, .renormalise = true},
    .attention = {.norm = head_norm::each, .theta = 1e6},
});

inline constexpr architecture qwen3_235b_a22b = checked(architecture{
    .hidden = 4096,
    .layers = 94,
    .vocabulary = 151936,
    .heads = 64,
    .kv_heads = 4,
    .head_dim = 128,
    .moe = {.hidden = 4096, .width = 1536, .routed = 128, .top_k = 8, .renormalise = true},
    .attention = {.norm = head_norm::each, .theta = 1e6},
});

/// Qwen3-Coder.
inline constexpr architecture qwen3_coder_480b_a35b = checked(architecture{
    .hidden = 6144,
    .layers = 62,
    .vocabulary = 151936,
    .heads = 96,
    .kv_heads = 8,
    .head_dim = 128,
    .moe = {.hidden = 6144, .width = 2560, .routed = 160, .top_k = 8, .renormalise = true},
    .attention = {.norm = head_norm::each, .theta = 1e7},
});

inline constexpr architecture olmoe_1b_7b = checked(architecture{
    .hidden = 2048,
    .layers = 16,
    .vocabulary = 50304,
    .heads = 16,
    .kv_heads = 16,
    .head_dim = 128,
    .moe = {.hidden = 2048, .width = 1024, .routed = 64, .top_k = 8},
    .attention = {.norm = head_norm::all, .epsilon = 1e-5},
    .epsilon = 1e-5,
});

/// ERNIE 4.5 21B-A3B: softmax, a selection bias; positions turn neighbouring numbers.
inline constexpr architecture ernie_4_5_21b_a3b = checked(architecture{
    .hidden = 2560,
    .layers = 28,
    .vocabulary = 103424,
    .tied = true,
    .heads = 20,
    .kv_heads = 4,
    .head_dim = 128,
    .dense_layers = 1,
    .dense_width = 12288,
    .moe = {.hidden = 2560,
            .width = 1536,
            .routed = 64,
            .top_k = 6,
            .shared = 2,
            .renormalise = true,
            .bias = true,
            .epsilon = 0,
            .floor = 1e-12f},
    .attention = {.adjacent = true, .theta = 5e5},
    .epsilon = 1e-5,
});

/// Granite 3.1: softmax over the chosen eight, and constant multipliers.
inline constexpr architecture granite_3_1_1b_a400m = checked(architecture{
    .hidden = 1024,
    .layers = 24,
    .vocabulary = 49155,
    .tied = true,
    .heads = 16,
    .kv_heads = 8,
    .head_dim = 64,
    .moe = {.hidden = 1024, .width = 512, .routed = 32, .top_k = 8, .renormalise = true},
    .attention = {.theta = 1.5e6, .scale = 0.015625},
    .multipliers = {.embedding = 12, .residual = 0.22, .logits = 1 / 6.0},
});

// ---- dense models, which the papers compare with ----

inline constexpr architecture llama2_7b = checked(architecture{
    .hidden = 4096,
    .layers = 32,
    .vocabulary = 32000,
    .heads = 32,
    .kv_heads = 32,
    .head_dim = 128,
    .dense_layers = 32,
    .dense_width = 11008,
    .epsilon = 1e-5,
});

inline constexpr architecture deepseek_7b = checked(architecture{
    .hidden = 4096,
    .layers = 30,
    .vocabulary = 102400,
    .heads = 32,
    .kv_heads = 32,
    .head_dim = 128,
    .dense_layers = 30,
    .dense_width = 11008,
});

inline constexpr architecture deepseek_67b = checked(architecture{
    .hidden = 8192,
    .layers = 95,
    .vocabulary = 102400,
    .heads = 64,
    .kv_heads = 8,
    .head_dim = 128,
    .dense_layers = 95,
    .dense_width = 22016,
});

}  // namespace finegrain::inline FINEGRAIN_ABI::presets
