// Models of OLMoE's, Qwen's, Mixtral's, GLM's and MiniMax's form on the device: their attention has biases,
// norms, or turns a part of a head.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include "published_model.hpp"

namespace {

using namespace under_test;

/// A preset with few and small parts: what else it says is the model's.
constexpr fg::architecture small(fg::architecture a, int kv_heads) {
  a.hidden = a.moe.hidden = 32;
  a.layers = 2;
  a.vocabulary = 32;
  a.heads = 4;
  a.kv_heads = kv_heads;
  a.head_dim = 8;
  a.moe.width = 8;
  a.moe.routed = 8;
  a.moe.top_k = 2;
  if (a.dense_layers > 0) a.dense_layers = 1, a.dense_width = 24;
  if (a.attention.rotary > 0) a.attention.rotary = 8, a.head_dim = 16;
  return fg::checked(a);
}
constexpr auto olmoe = small(fg::presets::olmoe_1b_7b, 4);
constexpr auto qwen1_5 = small(fg::presets::qwen1_5_moe_a2_7b, 2);
constexpr auto qwen3 = small(fg::presets::qwen3_30b_a3b, 2);
constexpr auto mixtral = small(fg::presets::mixtral_8x7b, 2);
constexpr auto glm = small(fg::presets::glm_4_5, 2);
constexpr auto minimax = small(fg::presets::minimax_m2, 2);

TEST_CASE(
    "models of OLMoE's, Qwen's, Mixtral's, GLM's and MiniMax's form agree with the specification") {
  NEED_GPU();
  check_model<olmoe>();
  check_model<qwen1_5>(fg::qwen2_moe_name);
  check_model<qwen3>();
  check_model<mixtral>(fg::mixtral_name);
  check_model<glm>();
  check_model<minimax>(fg::minimax_m2_name);
}

TEST_CASE("a decoder with biases and norms in attention learns on the device as on the host") {
  NEED_GPU();
  check_learning<tiny::formed_decoder>();
}

}  // namespace
