// Models of OLMoE's, Qwen's and Mixtral's form on the device: their attention has biases or norms.
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
  return fg::checked(a);
}
constexpr auto olmoe = small(fg::presets::olmoe_1b_7b, 4);
constexpr auto qwen1_5 = small(fg::presets::qwen1_5_moe_a2_7b, 2);
constexpr auto qwen3 = small(fg::presets::qwen3_30b_a3b, 2);
constexpr auto mixtral = small(fg::presets::mixtral_8x7b, 2);

TEST_CASE("models of OLMoE's, Qwen's and Mixtral's form agree with the specification") {
  NEED_GPU();
  check_model<olmoe>();
  check_model<qwen1_5>(fg::qwen2_moe_name);
  check_model<qwen3>();
  check_model<mixtral>(fg::mixtral_name);
}

TEST_CASE("a decoder with biases and norms in attention learns on the device as on the host") {
  NEED_GPU();
  tiny::text const text(40);
  fg::network<tiny::formed_decoder, fg::cuda> net({.deviation = 0.1});
  fg::network<tiny::formed_decoder, fg::cpu> host({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  fg::trainer plain{host, fg::adamw{.lr = 1e-2f}};
  double first = 0, last = 0, host_last = 0;
  for (int step = 0; step < 20; ++step) {
    last = train.step(text.inputs(), text.targets()).loss;
    host_last = plain.step(text.inputs(), text.targets()).loss;
    if (step == 0) first = last;
  }
  CHECK(last < 0.7 * first);
  CHECK(last == Approx(host_last).epsilon(0.2));
}

}  // namespace
