// combine weights: those of the experts that a token chose, from its scores. For every executor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/bounds.hpp"
#include "../base/math.hpp"
#include "../base/number.hpp"
#include "routing.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace detail {

/// Softmax over the chosen logits alone: it is what dividing softmax by the bare sum of the chosen
/// comes to, and cannot be 0 / 0 where they all are small.
constexpr bool softmax_of_chosen(config const& c) {
  return c.score == score::softmax && c.renormalise && c.epsilon == 0 && c.floor == 0;
}

/// As one operation of the router's arithmetic leaves a number.
template <class S>
S operation(config const& c, S x) {
  return c.precision == precision::bf16 ? rounded_to_bf16(x) : x;
}

/// e to a chosen logit, over the highest of them; 0 of an unused slot.
template <class S>
S above_highest(int k, S const* logits, std::int32_t const* experts, int slot) {
  if (experts[slot] == no_expert) return 0;
  S highest = logits[expert_in(experts[slot])];
  for (int n = 0; n < k; ++n)
    if (experts[n] != no_expert) highest = at_least(highest, logits[expert_in(experts[n])]);
  return math::exp(logits[expert_in(experts[slot])] - highest);
}

/// What scores are divided by.
template <class S>
S divisor(config const& c, int k, S const* scores, std::int32_t const* experts) {
  if (!c.renormalise) return 1;
  S total = 0;
  for (int slot = 0; slot < k; ++slot)
    if (experts[slot] != no_expert) total += scores[expert_in(experts[slot])];
  return at_least(operation(c, total), S(c.floor)) + S(c.epsilon);
}

}  // namespace detail

/// A token's weights of k chosen experts, none of them dropped yet; those that came with the batch stay.
template <class S>
void weigh_forward(config const& c, int k, S const* logits, S const* scores,
                   std::int32_t const* experts, S* weights) {
  if (c.selection == selection::given) return;
  if (detail::softmax_of_chosen(c)) {
    S sum = 0;
    for (int slot = 0; slot < k; ++slot)
      sum += weights[slot] = detail::above_highest(k, logits, experts, slot);
    for (int slot = 0; slot < k && sum > 0; ++slot) weights[slot] /= sum;
  } else {
    S const total = detail::divisor(c, k, scores, experts);
    for (int slot = 0; slot < k; ++slot)
      weights[slot] = experts[slot] == no_expert ? S(0)
                      : c.uniform                ? S(1) / S(k)
                      : c.renormalise ? detail::operation(c, scores[experts[slot]] / total)
                                      : scores[experts[slot]];
  }
  for (int slot = 0; slot < k; ++slot) {
    S const w = detail::operation(c, S(c.scale) * weights[slot]);
    weights[slot] = c.precision == precision::bf16_logits ? rounded_to_bf16(w) : w;
  }
}

/// Adds to the gradients of a token's scores. Where softmax is of the chosen logits alone, it adds
/// to nothing: see weigh_logits_backward.
template <class S>
void weigh_backward(config const& c, int k, S const* scores, std::int32_t const* experts,
                    S const* dweights, S* dscores) {
  if (!c.has_router() || detail::softmax_of_chosen(c)) return;
  S const total = detail::divisor(c, k, scores, experts);
  bool const constant = !c.renormalise || (c.floor > 0 && total <= S(c.floor) + S(c.epsilon));
  S mean = 0;
  for (int slot = 0; slot < k && !constant; ++slot)
    if (experts[slot] != no_expert)
      mean += dweights[slot] * scores[expert_in(experts[slot])] / total;
  for (int slot = 0; slot < k; ++slot)
    if (experts[slot] != no_expert)
      dscores[expert_in(experts[slot])] += S(c.scale) * (dweights[slot] - mean) / total;
}
/// Adds to the gradients of a token's logits, where softmax is of the chosen ones alone.
template <class S>
void weigh_logits_backward(config const& c, int k, S const* logits, std::int32_t const* experts,
                           S const* dweights, S* dlogits) {
  if (!detail::softmax_of_chosen(c)) return;
  S sum = 0, mean = 0;
  for (int slot = 0; slot < k; ++slot) {
    S const part = detail::above_highest(k, logits, experts, slot);
    sum += part;
    mean += part * dweights[slot];
  }
  for (int slot = 0; slot < k; ++slot)
    if (experts[slot] != no_expert)
      dlogits[expert_in(experts[slot])] += S(c.scale) / sum * (dweights[slot] - mean / sum) *
                                           detail::above_highest(k, logits, experts, slot);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
