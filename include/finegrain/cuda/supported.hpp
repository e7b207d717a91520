// What the cuda executor cannot do, each in a sentence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/routing.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What these kernels cannot do of what a config and a request ask for: a sentence, or null.
constexpr char const* unsupported(config const& c, routing_request const& request, bool training) {
  // clang-format off
  if (c.hidden % 8 != 0 || c.width % 8 != 0) return "on cuda, hidden and width must be multiples of 8";
  if (c.routed > 1024) return "on cuda, a layer has at most 1024 routed experts";
  if (c.selection == selection::expert_choice) return "cuda has no expert choice yet";
  if (c.selection == selection::rule || request.rule) return "cuda has no routing rules of a user's own";
  if (c.selection == selection::sinkhorn && training) return "cuda has no Sinkhorn routing in training yet";
  if (c.cosine > 0) return "cuda has no cosine router yet";
  if (c.noisy && training) return "cuda has no noisy router in training yet";
  if (c.chance_second && training) return "cuda has no chance_second in training yet";
  if (request.jitter > 0) return "cuda has no jitter yet";
  if (request.capacity > 0 || request.device_capacity > 0) return "cuda has no capacity limits yet";
  if (request.balance.load > 0) return "cuda has no load loss yet";
  if (request.balance.rule) return "cuda has no balance rules of a user's own";
  if (request.quantiles) return "cuda's reports have no quantiles yet";
  // clang-format on
  return nullptr;
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
