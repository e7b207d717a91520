// routing: where a batch's tokens go. Every executor's router fills one of these.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"
#include "plan.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// For T tokens and R routed experts: every score, and the k chosen experts of each token with
/// their weights, best first. k is the config's top_k, or what the request asks for.
///
/// The choice, in order: keys = scores + selection bias; NaN ranks below -inf; in equal keys the
/// lowest index wins; groups beyond the best group_limit are out; the best mask_best experts are
/// out; then the k highest keys. Weights are scores without bias: raw, or divided by the sum of
/// the chosen (plus 1e-20), then times scale.
template <class S>
struct routing {
  matrix<S> scores;              // (T, R) softmax, sigmoid or sqrt(softplus) of the logits
  matrix<std::int32_t> experts;  // (T, k)
  matrix<S> weights;             // (T, k)

  constexpr routing(arena& memory, extent e, config const& c)
      : scores(memory.matrix<S>(e.tokens, c.routed)),
        experts(memory.matrix<std::int32_t>(e.tokens, slots(c, e))),
        weights(memory.matrix<S>(e.tokens, slots(c, e))) {}

  /// Slots that there is room for: one more than configured where nothing is trained.
  static constexpr int slots(config const& c, extent e) {
    return c.top_k + (!e.training && c.top_k < c.routed ? 1 : 0);
  }
};

/// The number of experts that a token is sent to under a request.
constexpr int chosen(config const& c, routing_request const& request) {
  return request.top_k > 0 ? request.top_k : c.top_k;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
