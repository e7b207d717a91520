// paper: what the DeepSeekMoE paper counts, and how.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// The conventions that reproduce the numbers printed in the paper. They differ from the library's costs:
/// widths are not rounded, routers and norms are not counted, every layer is a mixture, attention is
/// counted over all pairs of tokens (not the causal half) with as many key heads as query heads, and
/// operations are those of forward and backward.
namespace paper {

/// Numbers of a standard feed-forward block: 3 h (8 h / 3).
constexpr std::int64_t standard_ffn(std::int64_t hidden) { return 8 * hidden * hidden; }

/// A model as the paper counts it; `ffn` is in numbers of one layer: standard_ffn(h) * 2 for
/// two standard blocks, or 3 * h * width * experts where widths are real.
struct model {
  std::int64_t layers = 0, hidden = 0, vocabulary = 0;
  std::int64_t ffn = 0;         // of all experts of a layer
  std::int64_t active_ffn = 0;  // of those that a token runs through, shared and routed
};

/// Four projections, h x h, a layer.
constexpr std::int64_t attention_parameters(model const& m) {
  return m.layers * 4 * m.hidden * m.hidden;
}
/// Attention, experts, and the input and output embeddings.
constexpr std::int64_t parameters(model const& m) {
  return attention_parameters(m) + m.layers * m.ffn + 2 * m.vocabulary * m.hidden;
}
constexpr std::int64_t active_parameters(model const& m) {
  return attention_parameters(m) + m.layers * m.active_ffn + 2 * m.vocabulary * m.hidden;
}
/// Operations of training on one sequence: 6 T (L (4 h^2 + ffn) + V h) + 12 L h T^2.
constexpr std::int64_t flops(model const& m, std::int64_t tokens) {
  std::int64_t const weights =
      attention_parameters(m) + m.layers * m.active_ffn + m.vocabulary * m.hidden;
  return 6 * tokens * weights + 12 * m.layers * m.hidden * tokens * tokens;
}

/// Ways of choosing k of n: how many sets of experts a token can be sent to [DeepSeekMoE 3.1].
/// Exact as long as the result times k fits into 64 bits.
constexpr std::int64_t combinations(int n, int k) {
  std::int64_t ways = 1;
  for (int i = 1; i <= k; ++i) ways = ways * (n - k + i) / i;
  return ways;
}
/// The width of 1/m of a standard feed-forward block, 8 hidden / (3 m), rounded up to a multiple
/// of 64 as released models are.
constexpr int width_rounded_up(int hidden, int m) {
  int const thirds = 3 * 64 * m;
  return (8 * hidden + thirds - 1) / thirds * 64;
}

}  // namespace paper
