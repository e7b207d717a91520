// unlike_stages: what stages of other published models compute, of whose like the library has none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// A stage that tensors and keys do not tell from one of the library's.
struct unlike_stage {
  std::string_view family;  // a model_type of transformers
  std::string_view stage;
  std::string_view does;
};
inline constexpr unlike_stage unlike_stages[] = {
    {"afmoe", "attention", "gates what it makes"},
    {"cohere2_moe", "attention", "turns neighbouring numbers, in layers with a window alone"},
    {"exaone_moe", "attention", "turns queries and keys in layers with a window alone"},
    {"gemma4_text", "router", "has a norm, and a factor for each expert"},
    {"gpt_oss", "attention", "has a sink for each head"},
    {"gpt_oss", "feed-forward block", "is a SwiGLU of its own, whose up is one more"},
    {"hunyuan_v1_dense", "attention", "norms queries and keys behind their rotation"},
    {"hunyuan_v1_moe", "attention", "norms queries and keys behind their rotation"},
    {"jamba", "attention", "knows no positions"},
    {"jetmoe", "attention", "is a mixture of queries and outputs"},
    {"jetmoe", "feed-forward block", "adds a bias to what experts make"},
    {"llama4_text", "attention",
     "norms queries and keys behind their rotation, which some layers lack"},
    {"llama4_text", "router", "weighs what experts read, not what they make"},
    {"minimax_m3", "feed-forward block", "is a SwiGLU of its own, whose up is one more"},
    {"minimax_m3_vl_text", "feed-forward block", "is a SwiGLU of its own, whose up is one more"},
    {"minimax_m3_vl_text", "norm", "has gains that are one more"},
    {"phimoe", "router", "chooses and weighs one expert after the other (SparseMixer)"},
    {"qwen3_5_moe_text", "attention", "gates what it makes"},
    {"qwen3_5_moe_text", "norm", "has gains that are one more"},
    {"qwen3_next", "attention", "gates what it makes"},
    {"qwen3_next", "norm", "has gains that are one more"},
};

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
