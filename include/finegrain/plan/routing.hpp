// routing: where a batch's tokens go. Every executor's router fills one of these.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

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

/// Throws invalid_argument when a router of this config cannot do what is asked.
inline void check_request(config const& c, routing_request const& request, bool training) {
  int const k = chosen(c, request), most = c.top_k + (!training && c.top_k < c.routed ? 1 : 0);
  int const choice = c.routed / c.groups * c.group_limit;
  if (request.top_k < 0 || k > most)
    throw invalid_argument("a token can be sent to 1 to %d experts here, not %d", most,
                           request.top_k);
  if (request.mask_best < 0 || request.mask_best + k > choice)
    throw invalid_argument("with the best %d of %d experts excluded, %d cannot be chosen",
                           request.mask_best, choice, k);
  if (!(request.balance >= 0) || request.balance > 1e30)
    throw invalid_argument("the balance coefficient must be a number of at least 0");
}

namespace detail {
/// A stage that routes: it has a config, `layer`, and its plans write reports.
template <class L>
inline constexpr bool is_router = requires {
  { L::layer } -> std::convertible_to<config const&>;
};
}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
