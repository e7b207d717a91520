// routing: where a batch's tokens go. Every executor's router fills one of these.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/bounds.hpp"
#include "../base/buffer.hpp"
#include "../base/math.hpp"
#include "../base/random.hpp"
#include "../config/config.hpp"
#include "extent.hpp"
#include "request.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A router's weights, or their gradients, with run-time shapes. What a config has no use for is
/// empty.
template <class T>
struct router_weights {
  matrix<T> router, bias, table, project, temperature, noise;

  constexpr router_weights() = default;
  template <class W>
  constexpr explicit router_weights(W const& w)  // the weights of routed_experts
      : router(w.router),
        bias(w.bias),
        table(w.table),
        project(w.project),
        temperature(w.temperature),
        noise(w.noise) {}
};

/// Slots: a token's places for experts, best first. A dropped slot keeps its expert, as ~expert.
FINEGRAIN_HD constexpr bool is_kept(std::int32_t slot) { return slot >= 0; }
FINEGRAIN_HD constexpr std::int32_t expert_in(std::int32_t slot) { return slot < 0 ? ~slot : slot; }

/// Experts that a token may be sent to: those of all groups, or of the best.
constexpr int allowed(config const& c) { return c.routed / c.groups * c.group_limit; }
/// Experts that a request may send a token to: one more than configured, if more are allowed, but where
/// experts are given, or learn.
constexpr int most_chosen(config const& c, bool training) {
  bool const given = c.selection == selection::hash || c.selection == selection::rule ||
                     c.selection == selection::given;
  return c.top_k + (!training && c.top_k < allowed(c) && !given ? 1 : 0);
}
/// Slots of a token that there is room for.
constexpr int slots(config const& c, extent e) {
  return c.selection == selection::expert_choice ? c.routed : most_chosen(c, e.training);
}
/// ceil(tokens k / R): an expert's part of all slots.
constexpr std::int64_t share_of(config const& c, int k, std::int64_t tokens) {
  return ceil_div(tokens * k, c.routed);
}
/// Pairs of a token and an expert that it is sent to: as many as there is room for.
constexpr std::int64_t pairs(config const& c, extent e) {
  if (c.selection != selection::expert_choice) return e.tokens * at_most(slots(c, e), c.routed);
  return c.routed * share_of(c, most_chosen(c, e.training), e.tokens);
}

/// For T tokens and R routed experts: logits, scores, and the chosen experts of each token with
/// their weights, in k slots. k is the config's top_k, or what the request asks for; with expert
/// choice it is R, and the first slots are used.
///
/// The choice of selection::top_k, in order: keys = scores (or logits) + selection bias; NaN ranks
/// below -inf; in equal keys the lowest index wins; groups beyond the best group_limit are out; the
/// best mask_best experts are out; then the k highest keys. Weights are scores without bias: raw,
/// or divided by max(the sum of the chosen, floor) + epsilon; then times scale. The weight of a
/// dropped slot is 0, and other weights do not change.
template <class S>
struct routing {
  matrix<S> logits;              // (T, R)
  matrix<S> scores;              // (T, R) softmax, sigmoid or sqrt(softplus) of the logits
  matrix<std::int32_t> experts;  // (T, k)
  matrix<S> weights;             // (T, k)
  matrix<S> factors;             // (T, R) at sequences' first tokens: see balance.hpp
  S* importance;                 // (R) d loss / d an expert's sum of weights
  matrix<S> projected;           // (T, P) of a cosine router
  matrix<S> smooth;              // (2, R) of a noisy one: mean tokens, d loss / d these
  matrix<S> spread;     // (T, R) of a noisy router in training: the deviation's softplus^-1
  std::uint64_t* seed;  // (1) of this router's random numbers in this pass
  matrix<float>* given_dweights;  // (1) where the gradients of given weights go
  bool training;

  constexpr routing(arena& memory, extent e, config const& c)
      : logits(memory.matrix<S>(e.tokens, c.routed)),
        scores(memory.matrix<S>(e.tokens, c.routed)),
        experts(memory.matrix<std::int32_t>(e.tokens, slots(c, e))),
        weights(memory.matrix<S>(e.tokens, slots(c, e))),
        factors(memory.matrix<S>(at_least<std::int64_t>(e.tokens, 1), c.routed)),
        importance(memory.take<S>(c.routed)),
        projected(memory.matrix<S>(e.tokens, c.cosine)),
        smooth(memory.matrix<S>(e.training && c.noisy ? 2 : 0, c.routed)),
        spread(memory.matrix<S>(e.training && c.noisy ? e.tokens : 0, c.routed)),
        seed(memory.take<std::uint64_t>(1)),
        given_dweights(memory.take<matrix<float>>(c.selection == selection::given)),
        training(e.training) {}
};

/// The number of experts that a token is sent to under a request.
constexpr int chosen(config const& c, routing_request const& request) {
  return request.top_k > 0 ? request.top_k : c.top_k;
}
/// The number of slots that a token has under a request.
constexpr int slots(config const& c, routing_request const& request) {
  return c.selection == selection::expert_choice ? c.routed : chosen(c, request);
}
/// The jitter of a router's input under a request: none where the config has none.
constexpr double jitter_of(config const& c, routing_request const& request) {
  return c.jitter ? request.jitter : 0;
}
/// The losses that a router adds under a request: none where there is no router.
inline constexpr balance_losses no_losses = {};
constexpr balance_losses const& losses_of(config const& c, routing_request const& request) {
  return c.has_router() ? request.balance : no_losses;
}
/// M of the communication loss: the most devices that a token may be sent to.
constexpr int most_devices(config const& c, routing_request const& request) {
  int const limit = c.groups > 1 && c.groups == request.devices ? c.group_limit : request.devices;
  int const k = chosen(c, request);
  return k < limit ? k : limit;
}

/// How many of a group's best keys say what it is worth.
constexpr int group_keys(config const& c) {
  switch (c.group_score) {
    case group_score::max: break;
    case group_score::top2_sum: return 2;
    case group_score::top_share_sum: return c.top_k / c.group_limit;
  }
  return 1;
}
/// Whether a router's inputs and logits are rounded to bf16.
constexpr bool rounds_logits(config const& c) {
  return c.precision == precision::bf16 || c.precision == precision::bf16_logits;
}
/// Whether the shared experts' output has a weight, a number a token.
constexpr bool weighs_shared(config const& c) { return c.shared_gate || c.shared_scale != 1; }

/// Throws invalid_argument when a router of this config cannot do what is asked.
inline void check_request(config const& c, routing_request const& request, bool training) {
  int const k = chosen(c, request);
  int const most = most_chosen(c, training);
  int const choice = allowed(c);
  bool const by_tokens = c.selection == selection::top_k || c.selection == selection::sinkhorn;
  if (request.top_k < 0 || k > most)
    throw invalid_argument("a token can be sent to 1 to %d experts here%s, not %d", most,
                           training ? " in training" : "", request.top_k);
  if (request.mask_best != 0 && !by_tokens)
    throw invalid_argument("only where tokens choose can their best experts be excluded");
  if (request.mask_best < 0 || (request.mask_best > 0 && request.mask_best > choice - k))
    throw invalid_argument("with the best %d of %d experts excluded, %d cannot be chosen",
                           request.mask_best, choice, k);
  auto const number = [](double x) { return x >= 0 && x <= 1e30; };
  balance_losses const& b = request.balance;
  for (double x : {b.expert, b.device, b.communication, b.sequence, b.z, b.importance, b.load})
    if (!number(x)) throw invalid_argument("a balance coefficient must be a number of at least 0");
  if (c.selection == selection::rule && !request.rule)
    throw invalid_argument("selection::rule needs a rule in the batch's routing request");
  if (b.load > 0 && !(c.noisy && c.selection == selection::top_k && c.groups == 1 && !c.bias &&
                      request.mask_best == 0 && k < c.routed))
    throw invalid_argument(
        "the load loss averages over noise: it needs .noisy = true, no groups, bias or excluded "
        "experts, and fewer experts a token than there are");
  if (request.devices < 1 || c.routed % request.devices != 0)
    throw invalid_argument("%d experts cannot stand in equal parts on %d devices", c.routed,
                           request.devices);
  if (!number(request.capacity) || !number(request.device_capacity))
    throw invalid_argument("a capacity factor must be a number of at least 0");
  if ((request.capacity > 0 || request.device_capacity > 0) &&
      c.selection == selection::expert_choice)
    throw invalid_argument("with expert choice every expert is full: there is no capacity to set");
  if (!(request.exempt >= 0 && request.exempt <= 1))
    throw invalid_argument("the share of exempt sequences must lie between 0 and 1");
  if (request.jitter != 0 && !(request.jitter > 0 && request.jitter < 1))
    throw invalid_argument("jitter must lie between 0 and 1");
}

namespace detail {
/// Streams of random numbers of one router in one pass.
enum class stream : std::uint64_t { jitter, noise, chance, exempt };
FINEGRAIN_HD constexpr std::uint64_t seed_of(std::uint64_t router, stream s) {
  return random_word(router, static_cast<std::uint64_t>(s));
}
/// What jitter multiplies number n of the router's input with.
template <class S>
FINEGRAIN_HD constexpr S jitter_factor(double jitter, std::uint64_t seed, std::int64_t n) {
  return static_cast<S>(1 + jitter * (2 * random_uniform(seed, static_cast<std::uint64_t>(n)) - 1));
}
/// ceil(factor * slots / parts): slots that a full expert or device takes.
inline std::int64_t room_of(double factor, std::int64_t slots, int parts) {
  return static_cast<std::int64_t>(
      math::ceil(at_most(factor * static_cast<double>(slots) / parts, static_cast<double>(slots))));
}
}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
