// The router: scores, and the choice of k experts for each token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "../plan/combine_weights.hpp"
#include "../plan/report.hpp"
#include "linear.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Memory that a router needs while it runs.
template <class T>
struct router_scratch {
  T* keys;                // (R) one token's
  std::int32_t* allowed;  // (R) the experts that it may be sent to
  logit_scratch<T> logits;
  assign_scratch<T> assign;
  balance_scratch<T> balance;
  matrix<T> dlogits;   // (T, R)
  matrix<T> dweights;  // (T, k)

  constexpr router_scratch(arena& memory, extent e, config const& c)
      : keys(memory.take<T>(c.routed)),
        allowed(memory.take<std::int32_t>(c.routed)),
        logits(memory, e, c),
        assign(memory, e, c),
        balance(memory, e, c),
        dlogits(memory.matrix<T>(e.training ? e.tokens : 0, c.routed)),
        dweights(memory.matrix<T>(e.training ? e.tokens : 0, slots(c, e))) {}
};

namespace spec {

// ---- scores: logits -> scores, in place ---------------------------------------------------------

template <class T>
void score_forward(config const& c, T* s) {
  if (c.score == score::softmax) {
    T const highest = *std::max_element(s, s + c.routed);
    T total = 0;
    for (int i = 0; i < c.routed; ++i) total += s[i] = math::exp(s[i] - highest);
    for (int i = 0; i < c.routed; ++i) s[i] /= total;
  } else {
    for (int i = 0; i < c.routed; ++i)
      s[i] =
          c.score == score::sigmoid ? detail::logistic(s[i]) : math::sqrt(detail::softplus(s[i]));
  }
  for (int i = 0; i < c.routed; ++i) s[i] = detail::operation(c, s[i]);
}
/// Gradients of scores become gradients of logits, in place. The scores say all that is needed:
/// sigmoid' = s (1 - s), and sqrt(softplus)' = sigmoid / (2 s) with sigmoid = 1 - exp(-s^2).
template <class T>
void score_backward(config const& c, T const* s, T* ds) {
  if (c.score == score::softmax) {
    T const mean = dot(s, ds, c.routed);
    for (int i = 0; i < c.routed; ++i) ds[i] = s[i] * (ds[i] - mean);
  } else if (c.score == score::sigmoid) {
    for (int i = 0; i < c.routed; ++i) ds[i] *= s[i] * (1 - s[i]);
  } else {
    for (int i = 0; i < c.routed; ++i)
      ds[i] *= s[i] == 0 ? 0 : -math::expm1(-s[i] * s[i]) / (2 * s[i]);
  }
}

// ---- the choice ---------------------------------------------------------------------------------

using detail::ranks_before;

/// What a group of experts is worth: the sum of its best keys, added best first.
template <class T>
T group_worth(config const& c, T const* keys, int group) {
  int const size = c.routed / c.groups, begin = group * size, end = begin + size;
  T total = 0;
  for (int i = begin; i < end; ++i) {
    int better = 0;
    for (int j = begin; j < end; ++j) better += ranks_before(keys[j], j, keys[i], i);
    if (better == 0) total = keys[i];
  }
  for (int place = 1; place < group_keys(c); ++place)
    for (int i = begin; i < end; ++i) {
      int better = 0;
      for (int j = begin; j < end; ++j) better += ranks_before(keys[j], j, keys[i], i);
      if (better == place) total += keys[i];
    }
  return total;
}

/// Lists the experts of the best group_limit groups, in order; returns how many.
template <class T>
int list_allowed(config const& c, T const* keys, std::int32_t* allowed) {
  int const size = c.routed / c.groups;
  int count = 0;
  for (int g = 0; g < c.groups; ++g) {
    int better = 0;
    if (c.group_limit < c.groups)
      for (int other = 0; other < c.groups; ++other)
        better += ranks_before(group_worth(c, keys, other), other, group_worth(c, keys, g), g);
    if (better >= c.group_limit) continue;
    for (int i = g * size; i < (g + 1) * size; ++i) allowed[count++] = i;
  }
  return count;
}

/// A token's experts: of those allowed, the ones that rank from mask_best to mask_best + k - 1.
template <class T>
void choose(config const& c, routing_request const& request, T const* scores, T const* bias,
            router_scratch<T> const& t, std::int32_t* experts) {
  for (int i = 0; i < c.routed; ++i) t.keys[i] = scores[i] + (c.bias ? bias[i] : T(0));
  int const count = list_allowed(c, t.keys, t.allowed);
  for (int n = 0; n < count; ++n) {
    int const i = t.allowed[n];
    int slot = -request.mask_best;
    for (int m = 0; m < count; ++m) {
      int const j = t.allowed[m];
      slot += ranks_before(t.keys[j], j, t.keys[i], i);
    }
    if (slot >= 0 && slot < chosen(c, request)) experts[slot] = i;
  }
}

}  // namespace spec

/// Scores, experts and weights of each token, from x (T, D). The order of the rules is `routing`'s.
/// Throws invalid_argument if the request cannot be met.
template <class T>
void route_forward(basic_reference<T> const& on, config const& c, batch const& b, spec::input<T> x,
                   router_weights<T const> const& w, routing<T> const& r,
                   router_scratch<T> const& scratch) {
  check_request(c, b.routing, r.training);
  *r.seed = random_word(b.routing.seed, b.log ? b.log->next : 0);
  int const k = slots(c, b.routing);
  logits_forward(on, c, b.routing, x, w, r, scratch.logits);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::copy_n(r.logits.row(t), c.routed, r.scores.row(t));
    spec::score_forward(c, r.scores.row(t));
  }
  matrix<T const> keys = c.by_logits ? r.logits : r.scores;
  if (c.selection == selection::sinkhorn && r.training) keys = sinkhorn_keys(r, scratch.assign);
  if (c.selection == selection::expert_choice)
    choose_tokens(on, c, chosen(c, b.routing), r, scratch.assign);
  if (c.selection == selection::rule) choose_by_rule(c, b, r, scratch.assign);
  if (c.selection == selection::given) take_choice(c, b, r);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    if (c.selection == selection::hash)
      look_up(c, k, w.table, b.ids[std::size_t(t)], r.experts.row(t));
    else if (c.selection == selection::top_k || c.selection == selection::sinkhorn)
      spec::choose(c, b.routing, keys.row(t), w.bias.data, scratch, r.experts.row(t));
    weigh_forward(c, k, r.logits.row(t), r.scores.row(t), r.experts.row(t), r.weights.row(t));
  }
  drop_slots(on, c, b, r, scratch.assign);
  balance_forward(on, c, b, r, scratch.balance);
  if (b.log) report_routing(c, b, r, w, scratch.balance, *b.log);
}

/// Gradients of the router's weights, and what they add to dx (T, D), from the weights' gradients
/// in scratch.dweights (T, k) and the balance losses.
template <class T>
void route_backward(basic_reference<T> const& on, config const& c, batch const& b, spec::input<T> x,
                    router_weights<T const> const& w, routing<T> const& r,
                    router_scratch<T> const& scratch, router_weights<T> const& dw, gradients mode,
                    spec::output<T> dx) {
  int const k = slots(c, b.routing);
  give_gradients<T>(c, r, scratch.dweights);
  balance_weights_backward(c, b, r, scratch.dweights);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    T* const ds = scratch.dlogits.row(t);
    std::fill_n(ds, c.routed, T(0));
    weigh_backward(c, k, r.scores.row(t), r.experts.row(t), scratch.dweights.row(t), ds);
    balance_scores_backward(c, b, r, t, ds);
    spec::score_backward(c, r.scores.row(t), ds);
    weigh_logits_backward(c, k, r.logits.row(t), r.experts.row(t), scratch.dweights.row(t), ds);
    balance_logits_backward(c, b, r, t, scratch.balance.best, scratch.logits, ds);
  }
  logits_backward(on, c, b.routing, x, w, r, scratch.logits, scratch.dlogits, dw, mode, dx);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
