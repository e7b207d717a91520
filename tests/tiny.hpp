// A decoder as small as one can be that has a weight of every kind, and a text for it to learn.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/expr/decoder.hpp>
#include <span>
#include <string_view>
#include <vector>

namespace tiny {

inline constexpr finegrain::architecture numbers{
    .hidden = 16,
    .layers = 2,
    .vocabulary = 32,
    .heads = 2,
    .kv_heads = 1,
    .head_dim = 8,
    .dense_layers = 1,
    .dense_width = 24,
    .moe = {.hidden = 16, .width = 16, .routed = 4, .top_k = 2, .shared = 1, .bias = true}};

using decoder = finegrain::decoder<numbers>;

/// The same with latent attention.
inline constexpr finegrain::architecture latent_numbers = [] {
  finegrain::architecture a = numbers;
  a.kv_heads = a.head_dim = 0;
  a.latent = {.q_rank = 10, .kv_rank = 12, .nope = 6, .rope = 4, .value = 5, .yarn = {.factor = 8}};
  return a;
}();
using latent_decoder = finegrain::decoder<latent_numbers>;

/// And with biases, norms and other positions in attention, and another epsilon.
inline constexpr finegrain::architecture formed_numbers = [] {
  finegrain::architecture a = numbers;
  a.attention = {.bias = true, .norm = finegrain::head_norm::each, .theta = 1e6, .epsilon = 1e-5};
  a.epsilon = 1e-5;
  return a;
}();
using formed_decoder = finegrain::decoder<formed_numbers>;

/// And with one table for the embedding and the head.
inline constexpr finegrain::architecture tied_numbers = [] {
  finegrain::architecture a = numbers;
  a.tied = true;
  return a;
}();
using tied_decoder = finegrain::decoder<tied_numbers>;

/// And that with constants, as Granite's models have them.
inline constexpr finegrain::architecture multiplied_numbers = [] {
  finegrain::architecture a = tied_numbers;
  a.attention.scale = 0.125;
  a.multipliers = {.embedding = 12, .residual = 0.22, .logits = 1 / 6.0};
  return a;
}();
using multiplied_decoder = finegrain::decoder<multiplied_numbers>;

/// n + 1 ids: a sentence again and again. Inputs are the first n, targets the last n.
struct text {
  std::vector<std::int32_t> ids;

  explicit text(std::size_t n) {
    constexpr std::string_view sentence = "the quick brown fox jumps over it ";
    for (std::size_t i = 0; i <= n; ++i) ids.push_back(sentence[i % sentence.size()] % 32);
  }
  std::span<std::int32_t const> inputs() const { return {ids.data(), ids.size() - 1}; }
  std::span<std::int32_t const> targets() const { return {ids.data() + 1, ids.size() - 1}; }
};

}  // namespace tiny
