// What a mixture costs, from its config alone: parameters, floating-point operations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

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

}  // namespace finegrain::inline FINEGRAIN_ABI
