// What a mixture costs, from its config alone: parameters, floating-point operations, bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/bounds.hpp"
#include "../base/number.hpp"
#include "config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Numbers in one expert: gate, up and down, each width x hidden.
constexpr std::int64_t parameters_of_one_expert(config const& c) {
  return 3LL * c.hidden * c.width;
}
/// Numbers in all experts, routed and shared, the router apart. This is what the paper's
/// comparisons hold equal; segmented and isolated leave it as it is.
constexpr std::int64_t expert_parameters(config const& c) {
  return (c.routed + c.shared) * parameters_of_one_expert(c);
}
/// Of these, the ones that one token runs through.
constexpr std::int64_t active_expert_parameters(config const& c) {
  return c.active() * parameters_of_one_expert(c);
}

namespace detail {
/// Numbers of the router: what its logits are made with, their noise, and the shared gate.
constexpr std::int64_t router_parameters(config const& c) {
  std::int64_t const R = c.routed, D = c.hidden, P = c.cosine;
  return (!c.has_router() ? 0
          : P > 0         ? R * P + P * D + 1
                          : R * D) +
         (c.noisy ? R * D : 0) + (c.shared_gate ? D : 0);
}
}  // namespace detail

/// Trained numbers of the layer: experts, router and shared gate. The selection bias is not
/// trained by gradient and not counted.
constexpr std::int64_t parameters(config const& c) {
  return expert_parameters(c) + detail::router_parameters(c);
}
/// Of these, the ones that one token runs through: the router whole, K of the R routed experts.
constexpr std::int64_t active_parameters(config const& c) {
  return active_expert_parameters(c) + detail::router_parameters(c);
}
/// Forward floating-point operations of so many tokens: two for each active weight.
constexpr std::int64_t flops(config const& c, std::int64_t tokens) {
  return 2 * active_parameters(c) * tokens;
}
/// Bytes of the layer's trained numbers in a format.
constexpr std::int64_t bytes(config const& c, format f) { return bytes(parameters(c), f); }

/// Ways of choosing k of n: how many sets of experts a token can be sent to [DeepSeekMoE 3.1].
/// Exact as long as the result times k fits into 64 bits.
constexpr std::int64_t combinations(int n, int k) {
  if (k < 0 || k > n) return 0;
  std::int64_t ways = 1;
  for (int i = 1; i <= k; ++i) ways = ways * (n - k + i) / i;
  return ways;
}
constexpr std::int64_t combinations(config const& c) { return combinations(c.routed, c.top_k); }

/// The width of 1/m of a standard feed-forward block, 8 hidden / (3 m), rounded up to a multiple
/// of 64 as released models are.
constexpr int width_rounded_up(int hidden, int m) {
  std::int64_t const thirds = 3LL * 64 * m;
  return static_cast<int>(ceil_div(8LL * hidden, thirds) * 64);
}

/// The conventions that reproduce the numbers printed in the DeepSeekMoE paper. They differ from
/// the costs above: widths are not rounded, routers and norms are not counted, every layer is a
/// mixture, attention is counted over all pairs of tokens (not the causal half) with as many key
/// heads as query heads, and operations are those of forward and backward.
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

}  // namespace paper

}  // namespace finegrain::inline FINEGRAIN_ABI
