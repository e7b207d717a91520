// The router: scores, the choice of k experts for each token, their weights, and the balance loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "../plan/routing.hpp"
#include "linear.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Memory that a router needs while it runs.
template <class T>
struct router_scratch {
  T* keys;                // (R) one token's
  std::int32_t* allowed;  // (R) the experts that it may be sent to
  double* f;              // (R) the balance loss's factors
  matrix<T> dlogits;      // (T, R)
  matrix<T> dweights;     // (T, k)

  constexpr router_scratch(arena& memory, extent e, config const& c)
      : keys(memory.take<T>(c.routed)),
        allowed(memory.take<std::int32_t>(c.routed)),
        f(memory.take<double>(c.routed)),
        dlogits(memory.matrix<T>(e.training ? e.tokens : 0, c.routed)),
        dweights(memory.matrix<T>(e.training ? e.tokens : 0, c.top_k)) {}
};

namespace spec {

inline constexpr double tiny = 1e-20;  // keeps a sum of scores that divides away from zero

template <class T>
T sigmoid(T z) {
  if (z < 0) return std::exp(z) / (1 + std::exp(z));
  return 1 / (1 + std::exp(-z));
}
template <class T>
T softplus(T z) {
  return std::max(z, T(0)) + std::log1p(std::exp(-std::abs(z)));
}

// ---- scores: logits -> scores, in place ---------------------------------------------------------

template <class T>
void score_forward(config const& c, T* s) {
  if (c.score == score::softmax) {
    T const highest = *std::max_element(s, s + c.routed);
    T total = 0;
    for (int i = 0; i < c.routed; ++i) total += s[i] = std::exp(s[i] - highest);
    for (int i = 0; i < c.routed; ++i) s[i] /= total;
  } else {
    for (int i = 0; i < c.routed; ++i)
      s[i] = c.score == score::sigmoid ? sigmoid(s[i]) : std::sqrt(softplus(s[i]));
  }
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
      ds[i] *= s[i] == 0 ? 0 : -std::expm1(-s[i] * s[i]) / (2 * s[i]);
  }
}

// ---- the choice ---------------------------------------------------------------------------------

/// Whether key a at index i ranks before key b at index j: the higher one, then the lower index.
/// NaN ranks below everything.
template <class T>
bool before(T a, int i, T b, int j) {
  if (a > b || (std::isnan(b) && !std::isnan(a))) return true;
  return (a == b || (std::isnan(a) && std::isnan(b))) && i < j;
}

/// What a group of experts is worth: its best key, or the sum of its best two.
template <class T>
T group_worth(config const& c, T const* keys, int group) {
  int const size = c.routed / c.groups, begin = group * size, end = begin + size;
  auto best = [&](int except) {
    int at = -1;
    for (int i = begin; i < end; ++i)
      if (i != except && (at < 0 || before(keys[i], i, keys[at], at))) at = i;
    return at;
  };
  int const first = best(-1);
  return c.group_score == group_score::max ? keys[first] : keys[first] + keys[best(first)];
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
        better += before(group_worth(c, keys, other), other, group_worth(c, keys, g), g);
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
      slot += before(t.keys[j], j, t.keys[i], i);
    }
    if (slot >= 0 && slot < chosen(c, request)) experts[slot] = i;
  }
}

// ---- weights of the chosen: scale * s, or scale * s / (sum of the chosen s) ---------------------

template <class T>
T divisor(config const& c, int k, T const* scores, std::int32_t const* experts) {
  if (!c.renormalise) return 1;
  T total = T(tiny);
  for (int slot = 0; slot < k; ++slot) total += scores[experts[slot]];
  return total;
}
template <class T>
void weigh_forward(config const& c, int k, T const* scores, std::int32_t const* experts,
                   T* weights) {
  T const total = divisor(c, k, scores, experts);
  for (int slot = 0; slot < k; ++slot) weights[slot] = T(c.scale) * scores[experts[slot]] / total;
}
template <class T>
void weigh_backward(config const& c, int k, T const* scores, std::int32_t const* experts,
                    T const* dweights, T* dscores) {
  T const total = divisor(c, k, scores, experts);
  T mean = 0;
  if (c.renormalise)
    for (int slot = 0; slot < k; ++slot) mean += dweights[slot] * scores[experts[slot]] / total;
  for (int slot = 0; slot < k; ++slot)
    dscores[experts[slot]] += T(c.scale) * (dweights[slot] - mean) / total;
}

// ---- the balance loss: alpha * sum over experts of f P [eq. 12-14] ------------------------------

/// f = R / (k T) * the number of tokens sent to each expert. It has no gradient.
template <class T>
void balance_factors(config const& c, int k, routing<T> const& r, double* f) {
  std::fill_n(f, c.routed, 0.0);
  for (std::int64_t t = 0; t < r.scores.rows; ++t)
    for (int slot = 0; slot < k; ++slot)
      f[r.experts(t, slot)] += double(c.routed) / (double(k) * double(r.scores.rows));
}
/// P is the mean over tokens of s / sum(s), where softmax has a sum of 1 already.
template <class T>
T score_sum(config const& c, T const* scores) {
  if (c.score == score::softmax) return 1;
  T total = T(tiny);
  for (int i = 0; i < c.routed; ++i) total += scores[i];
  return total;
}
template <class T>
void balance_backward(config const& c, double alpha, routing<T> const& r, double const* f,
                      matrix<T> dscores) {
  for (std::int64_t t = 0; t < r.scores.rows; ++t) {
    T const* const s = r.scores.row(t);
    T const total = score_sum(c, s);
    double mean = 0;
    if (c.score != score::softmax)
      for (int i = 0; i < c.routed; ++i) mean += f[i] * double(s[i] / total);
    for (int i = 0; i < c.routed; ++i)
      dscores(t, i) += T(alpha / double(r.scores.rows) * (f[i] - mean)) / total;
  }
}

}  // namespace spec

/// Writes what the router did with a batch into the log's next report.
template <class T>
void report_routing(basic_reference<T> const&, config const& c, routing_request const& request,
                    routing<T> const& r, router_scratch<T> const& scratch, routing_log& log) {
  if (log.next >= log.layers.size())
    throw invalid_argument("the routing log has room for %lld routers and there are more",
                           static_cast<long long>(log.layers.size()));
  int const k = chosen(c, request);
  std::int64_t const tokens = r.scores.rows;
  routing_report& report = log.layers[log.next++];
  report.load.assign(std::size_t(c.routed), 0);
  report.mean_score.assign(std::size_t(c.routed), 0.0);
  report.balance_loss = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (int slot = 0; slot < k; ++slot) ++report.load[std::size_t(r.experts(t, slot))];
    T const total = spec::score_sum(c, r.scores.row(t));
    for (int i = 0; i < c.routed; ++i)
      report.mean_score[std::size_t(i)] += double(r.scores(t, i) / total) / double(tokens);
  }
  spec::balance_factors(c, k, r, scratch.f);
  for (int i = 0; i < c.routed; ++i)
    report.balance_loss += request.balance * scratch.f[i] * report.mean_score[std::size_t(i)];
}

/// Scores, experts and weights of each token, from x (T, D) and router (R, D). The order of the
/// rules is `routing`'s. Throws invalid_argument if the request cannot be met.
template <class T>
void route_forward(basic_reference<T> const& on, config const& c, routing_request const& request,
                   spec::input<T> x, spec::input<T> router, spec::input<T> bias,
                   routing<T> const& r, router_scratch<T> const& scratch) {
  check_request(c, request, r.experts.cols == c.top_k);
  linear_forward(on, x, router, r.scores);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    spec::score_forward(c, r.scores.row(t));
    spec::choose(c, request, r.scores.row(t), bias.data, scratch, r.experts.row(t));
    spec::weigh_forward(c, chosen(c, request), r.scores.row(t), r.experts.row(t), r.weights.row(t));
  }
}

/// drouter (R, D), and what it adds to dx (T, D), from the weights' gradients in
/// scratch.dweights (T, k) and the balance loss.
template <class T>
void route_backward(basic_reference<T> const& on, config const& c, routing_request const& request,
                    spec::input<T> x, spec::input<T> router, routing<T> const& r,
                    router_scratch<T> const& scratch, spec::output<T> drouter, gradients mode,
                    spec::output<T> dx) {
  spec::clear(scratch.dlogits);
  for (std::int64_t t = 0; t < x.rows; ++t)
    spec::weigh_backward(c, chosen(c, request), r.scores.row(t), r.experts.row(t),
                         scratch.dweights.row(t), scratch.dlogits.row(t));
  if (request.balance > 0) {
    spec::balance_factors(c, chosen(c, request), r, scratch.f);
    spec::balance_backward(c, request.balance, r, scratch.f, scratch.dlogits);
  }
  for (std::int64_t t = 0; t < x.rows; ++t)
    spec::score_backward(c, r.scores.row(t), scratch.dlogits.row(t));
  linear_backward(on, x, router, scratch.dlogits, drouter, mode, dx, gradients::accumulate);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
