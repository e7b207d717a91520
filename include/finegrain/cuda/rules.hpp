// Rules of your own on the device: of who is sent where, and of balance.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/batch.hpp"

struct CUstream_st;

namespace finegrain::inline FINEGRAIN_ABI {

/// A routing rule that runs on the device too. A .cu file of yours defines `enqueue`, which starts
/// kernels on the stream, and neither waits nor allocates; then passes can still be captured.
struct cuda_routing_rule : routing_rule {
  /// As choose, with the lists of the batch, scores and experts in memory of the device. What is not
  /// an expert, or one that an earlier slot has, becomes no_expert.
  virtual void enqueue(batch const& b, matrix<float const> scores, matrix<std::int32_t> experts,
                       CUstream_st* stream) const = 0;
};

/// The same of a balance rule.
struct cuda_balance_rule : balance_rule {
  /// As factors, in memory of the device: once a pass, or for one sequence after the other. Of a
  /// sequence without tokens f is 0, and nobody reads its factors.
  virtual void enqueue(std::span<double const> f, std::span<double> factors,
                       CUstream_st* stream) const = 0;
};

namespace detail {
/// A rule, or a pointer to one, as that of the device which it is. A template of both, so that a
/// program without networks on cuda can be compiled without RTTI.
template <class To, class Rule>
To rule_as(Rule&& rule) {
  return dynamic_cast<To>(rule);
}
}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
