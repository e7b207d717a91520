// Laws of config/architecture.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/config/architecture.hpp>
#include <string>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::architecture moe{
    .hidden = 64,
    .layers = 4,
    .vocabulary = 100,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 16,
    .dense_layers = 1,
    .dense_width = 96,
    .moe = {.hidden = 64, .width = 24, .routed = 8, .top_k = 2},
};

template <class Change>
std::string complaint(Change change) {
  fg::architecture a = moe;
  change(a);
  try {
    fg::checked(a);
  } catch (fg::invalid_config const& e) {
    return e.what();
  }
  return {};
}

void make_latent(fg::architecture& a) {
  a.kv_heads = a.head_dim = 0;
  a.latent = {.q_rank = 0, .kv_rank = 32, .nope = 8, .rope = 4, .value = 8};
}

void make_dense(fg::architecture& a) {
  a.dense_layers = a.layers;
  a.moe = {};
}

}  // namespace

TEST_CASE("a decoder may be mixed, all mixtures, all dense, or of latent attention") {
  CHECK(complaint([](auto&) {}).empty());
  CHECK(complaint([](auto& a) { a.dense_layers = a.dense_width = 0; }).empty());
  CHECK(complaint(make_dense).empty());
  CHECK(complaint(make_latent).empty());
}

TEST_CASE("an architecture that no decoder can have is refused in a sentence") {
  using a = fg::architecture;
  CHECK_THAT(complaint([](a& x) { x.hidden = 0; }), ContainsSubstring("hidden"));
  CHECK_THAT(complaint([](a& x) { x.layers = 0; }), ContainsSubstring("layers"));
  CHECK_THAT(complaint([](a& x) { x.vocabulary = 0; }), ContainsSubstring("vocabulary"));
  CHECK_THAT(complaint([](a& x) { x.heads = 0; }), ContainsSubstring("heads"));
  CHECK_THAT(complaint([](a& x) { x.kv_heads = 3; }), ContainsSubstring("kv_heads"));
  CHECK_THAT(complaint([](a& x) { x.kv_heads = 0; }), ContainsSubstring("kv_heads"));
  CHECK_THAT(complaint([](a& x) { x.head_dim = 15; }), ContainsSubstring("head_dim"));
  CHECK_THAT(complaint([](a& x) { x.dense_layers = 5; }), ContainsSubstring("dense_layers"));
  CHECK_THAT(complaint([](a& x) { x.dense_layers = -1; }), ContainsSubstring("dense_layers"));
  CHECK_THAT(complaint([](a& x) { x.dense_width = 0; }), ContainsSubstring("dense_width"));
  CHECK_THAT(complaint([](a& x) { x.dense_layers = 0; }), ContainsSubstring("dense_width"));
  CHECK_THAT(complaint([](a& x) { x.moe.hidden = 32; }), ContainsSubstring("moe.hidden"));
  CHECK_THAT(complaint([](a& x) { x.moe.top_k = 9; }), ContainsSubstring("top_k"));
  CHECK_THAT(complaint([](a& x) { x.moe = {}; }), ContainsSubstring("config: hidden"));
  CHECK_THAT(complaint([](a& x) { x.dense_layers = x.layers; }), ContainsSubstring("all dense"));
  CHECK_THAT(complaint([](a& x) { x.epsilon = 0; }), ContainsSubstring("architecture: epsilon"));
  CHECK_THAT(complaint([](a& x) { x.epsilon = 1; }), ContainsSubstring("architecture: epsilon"));
  CHECK_THAT(complaint([](a& x) { x.epsilon = 1e-60; }),
             ContainsSubstring("architecture: epsilon"));
}

TEST_CASE("a form that attention cannot have is refused in a sentence") {
  using a = fg::architecture;
  auto const each = fg::head_norm::each;
  CHECK(complaint([](a& x) { x.attention = {.bias = true, .theta = 1e6}; }).empty());
  CHECK(complaint([&](a& x) { x.attention = {.norm = each, .epsilon = 1e-5}; }).empty());
  CHECK(complaint([](a& x) { x.attention.rotary = x.head_dim; }).empty());
  CHECK_THAT(complaint([](a& x) { x.attention.rotary = x.head_dim + 2; }),
             ContainsSubstring("attention.rotary must be at most head_dim"));
  for (int const odd : {-2, 3})
    CHECK_THAT(complaint([&](a& x) { x.attention.rotary = odd; }),
               ContainsSubstring("rotary must be even"));
  CHECK_THAT(complaint([](a& x) { x.attention.theta = 1; }), ContainsSubstring("theta"));
  CHECK_THAT(complaint([](a& x) { x.attention.epsilon = 1e-5; }), ContainsSubstring("are none"));
  for (double const epsilon : {0.0, 1e-60})
    CHECK_THAT(complaint([&](a& x) { x.attention = {.norm = each, .epsilon = epsilon}; }),
               ContainsSubstring("attention_form: epsilon"));
  CHECK_THAT(complaint([](a& x) { x.attention.yarn.factor = 0; }), ContainsSubstring("factor"));
  CHECK(complaint([](a& x) { x.attention.scale = 0.015625; }).empty());
  for (double const scale : {-0.125, 1e-50, 9e-7, 1.1e6, double(INFINITY), double(NAN)})
    CHECK_THAT(complaint([&](a& x) { x.attention.scale = scale; }),
               ContainsSubstring("attention_form: scale"));
}

TEST_CASE("multipliers are positive, and such as f32 can hold") {
  using a = fg::architecture;
  CHECK(complaint([](a& x) { x.multipliers = {12, 0.22, 1 / 6.0}; }).empty());
  for (double const by : {0.0, -1.0, 1e-46, 9e-7, 1.1e6, 1e39, double(INFINITY), double(NAN)}) {
    CHECK_THAT(complaint([&](a& x) { x.multipliers.embedding = by; }),
               ContainsSubstring("multipliers: each must lie between 1e-6 and 1e6"));
    CHECK_THAT(complaint([&](a& x) { x.multipliers.residual = by; }),
               ContainsSubstring("multipliers: each must lie between 1e-6 and 1e6"));
    CHECK_THAT(complaint([&](a& x) { x.multipliers.logits = by; }),
               ContainsSubstring("multipliers: each must lie between 1e-6 and 1e6"));
  }
}

TEST_CASE("latent attention is refused with other head sizes or odd rotary ones") {
  auto const latent = [](auto change) {
    return complaint([&](fg::architecture& a) {
      make_latent(a);
      change(a);
    });
  };
  using a = fg::architecture;
  CHECK_THAT(latent([](a& x) { x.kv_heads = 4; }), ContainsSubstring("kv_heads"));
  CHECK_THAT(latent([](a& x) { x.head_dim = 12; }), ContainsSubstring("head_dim"));
  CHECK_THAT(latent([](a& x) { x.attention.bias = true; }), ContainsSubstring("left out"));
  CHECK_THAT(latent([](a& x) { x.latent.q_rank = -1; }), ContainsSubstring("q_rank"));
  CHECK_THAT(latent([](a& x) { x.latent.kv_rank = 0; }), ContainsSubstring("kv_rank"));
  CHECK_THAT(latent([](a& x) { x.latent.nope = 0; }), ContainsSubstring("nope"));
  CHECK_THAT(latent([](a& x) { x.latent.rope = 3; }), ContainsSubstring("rope"));
  CHECK_THAT(latent([](a& x) { x.latent.rope = 0; }), ContainsSubstring("rope"));
  CHECK_THAT(latent([](a& x) { x.latent.value = 0; }), ContainsSubstring("value"));
  CHECK_THAT(latent([](a& x) { x.latent.theta = 1; }), ContainsSubstring("theta"));
  CHECK(latent([](a& x) { x.latent.yarn.factor = 40; }).empty());
  CHECK_THAT(latent([](a& x) { x.latent.yarn.factor = 0.5f; }), ContainsSubstring("factor"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.original = 0; }), ContainsSubstring("original"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.slow = 0; }), ContainsSubstring("slow"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.fast = 0.5f; }), ContainsSubstring("fast"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.mscale = -1; }), ContainsSubstring("mscale"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.mscale_all = INFINITY; }),
             ContainsSubstring("mscale"));
  CHECK_THAT(latent([](a& x) { x.latent.yarn.factor = INFINITY; }), ContainsSubstring("factor"));
}
