// The router: scores, the choice of k experts for each token, their weights, and the balance loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "../plan/routing.hpp"
#include "dispatch.hpp"
#include "linear.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// A norm that is made in the router's pass: the router and the experts read its rows.
struct fused_norm {
  matrix<float const> gain;  // (1, D)
  float epsilon;
  matrix<float> rows;  // (T, D)
  float* inverse_rms;  // (T)
};

namespace simd {

inline constexpr float tiny = 1e-20f;  // keeps a sum of scores that divides away from zero
inline constexpr std::int64_t route_rows = 32;

/// f(vector at c, lanes that count) stored back, for every c.
template <class F>
FINEGRAIN_INLINE void map(float* x, std::int64_t n, F&& f) {
  std::int64_t c = 0;
  for (; c + lanes <= n; c += lanes) store(x + c, f(load(x + c)));
  if (c < n) store_first(x + c, f(load_first(x + c, n - c)), n - c);
}

/// Logits become scores.
inline void score_forward(config const& c, float* s) {
  switch (c.score) {
    case score::softmax: {
      float const highest = *std::max_element(s, s + c.routed);
      map(s, c.routed, [highest](vec x) { return exp(x - highest); });
      float const sum = sum_over(c.routed, [s](auto at) { return at(s); });
      map(s, c.routed, [sum](vec x) { return x / sum; });
      return;
    }
    case score::sigmoid: map(s, c.routed, [](vec x) { return sigmoid(x); }); return;
    case score::sqrt_softplus:
      for (int i = 0; i < c.routed; ++i)
        s[i] = std::sqrt(std::max(s[i], 0.0f) + std::log1p(std::exp(-std::abs(s[i]))));
  }
}
/// Gradients of scores become gradients of logits. The scores say all that is needed:
/// sigmoid' = s (1 - s), and sqrt(softplus)' = sigmoid / (2 s) with sigmoid = 1 - exp(-s^2).
inline void score_backward(config const& c, float const* s, float* ds) {
  switch (c.score) {
    case score::softmax: {
      float const mean = sum_over(c.routed, [s, ds](auto at) { return at(s) * at(ds); });
      for (int i = 0; i < c.routed; ++i) ds[i] = s[i] * (ds[i] - mean);
      return;
    }
    case score::sigmoid:
      for (int i = 0; i < c.routed; ++i) ds[i] *= s[i] * (1 - s[i]);
      return;
    case score::sqrt_softplus:
      for (int i = 0; i < c.routed; ++i)
        ds[i] *= s[i] == 0 ? 0 : -std::expm1(-s[i] * s[i]) / (2 * s[i]);
  }
}

// ---- the choice, on integers in the order of the keys -------------------------------------------

inline constexpr std::int32_t out = INT32_MIN, not_a_number = INT32_MIN + 1;

/// An integer that is larger for a larger key, the same for equal ones, lowest for NaN.
inline std::int32_t rank(float key) {
  if (key != key) return not_a_number;
  auto const bits = __builtin_bit_cast(std::int32_t, key + 0.0f);  // -0 becomes +0
  return bits < 0 ? bits ^ INT32_MAX : bits;
}
/// The first of the highest; it is out then.
inline int take_best(std::int32_t* ranks, int n) {
  std::int32_t best = ranks[0];
  for (int i = 1; i < n; ++i) best = std::max(best, ranks[i]);
  int at = 0;
  while (ranks[at] != best) ++at;
  ranks[at] = out;
  return at;
}

/// What a group is worth: its best key, or the sum of its best two.
inline float worth(group_score how, float const* keys, int n) {
  int first = 0, second = -1;
  for (int i = 1; i < n; ++i) {
    if (rank(keys[i]) > rank(keys[first])) {
      second = first;
      first = i;
    } else if (second < 0 || rank(keys[i]) > rank(keys[second])) {
      second = i;
    }
  }
  return how == group_score::max ? keys[first] : keys[first] + keys[second];
}
/// Leaves the experts of the best group_limit groups in.
inline void limit_groups(config const& c, float const* keys, std::int32_t* ranks) {
  int const size = c.routed / c.groups;
  for (int g = 0; g < c.groups; ++g) {
    std::int32_t const mine = rank(worth(c.group_score, keys + g * size, size));
    int better = 0;
    for (int other = 0; other < c.groups; ++other) {
      std::int32_t const theirs = rank(worth(c.group_score, keys + other * size, size));
      better += theirs > mine || (theirs == mine && other < g);
    }
    if (better >= c.group_limit) std::fill_n(ranks + g * size, size, out);
  }
}

/// One token's experts. `keys` has room for R numbers, `ranks` too.
inline void choose(config const& c, routing_request const& request, float const* scores,
                   float const* bias, float* keys, std::int32_t* ranks, std::int32_t* experts) {
  for (int i = 0; i < c.routed; ++i) {
    keys[i] = scores[i] + (bias ? bias[i] : 0.0f);
    ranks[i] = rank(keys[i]);
  }
  if (c.group_limit < c.groups) limit_groups(c, keys, ranks);
  for (int i = 0; i < request.mask_best; ++i) take_best(ranks, c.routed);
  for (int slot = 0; slot < chosen(c, request); ++slot) experts[slot] = take_best(ranks, c.routed);
}

// ---- weights of the chosen: scale * s, or scale * s / (sum of the chosen s) ---------------------

inline float divisor(config const& c, int k, float const* scores, std::int32_t const* experts) {
  if (!c.renormalise) return 1;
  float total = tiny;
  for (int slot = 0; slot < k; ++slot) total += scores[experts[slot]];
  return total;
}
inline void weigh_forward(config const& c, int k, float const* scores, std::int32_t const* experts,
                          float* weights) {
  float const scale = static_cast<float>(c.scale), total = divisor(c, k, scores, experts);
  for (int slot = 0; slot < k; ++slot) weights[slot] = scale * scores[experts[slot]] / total;
}
inline void weigh_backward(config const& c, int k, float const* scores, std::int32_t const* experts,
                           float const* dweights, float* dscores) {
  float const scale = static_cast<float>(c.scale), total = divisor(c, k, scores, experts);
  float mean = 0;
  if (c.renormalise)
    for (int slot = 0; slot < k; ++slot) mean += dweights[slot] * scores[experts[slot]] / total;
  for (int slot = 0; slot < k; ++slot)
    dscores[experts[slot]] += scale * (dweights[slot] - mean) / total;
}

// ---- the balance loss: alpha * sum over experts of f P [eq. 12-14] ------------------------------

/// f = R / (k T) * the number of tokens sent to the expert. It has no gradient.
inline double balance_factor(config const& c, int k, std::int64_t tokens, dispatched const& d,
                             int expert) {
  return double(c.routed) / (double(k) * double(tokens)) *
         double(d.offsets[expert + 1] - d.offsets[expert]);
}
/// P is the mean over tokens of s / sum(s), where softmax has a sum of 1 already.
inline float score_sum(config const& c, float const* scores) {
  if (c.score == score::softmax) return 1;
  return tiny + sum_over(c.routed, [scores](auto at) { return at(scores); });
}
inline void balance_backward(config const& c, double alpha, int k, std::int64_t tokens,
                             dispatched const& d, float const* s, float* dscores) {
  float const total = score_sum(c, s);
  double mean = 0;
  if (c.score != score::softmax)
    for (int i = 0; i < c.routed; ++i)
      mean += balance_factor(c, k, tokens, d, i) * double(s[i] / total);
  for (int i = 0; i < c.routed; ++i)
    dscores[i] +=
        static_cast<float>(alpha / double(tokens) * (balance_factor(c, k, tokens, d, i) - mean)) /
        total;
}

}  // namespace simd

/// Memory of a router while it runs.
struct route_scratch {
  float* keys;          // (workers, R) a token's
  std::int32_t* ranks;  // (workers, R)
  constexpr route_scratch(arena& memory, extent e, int routed)
      : keys(memory.take<float>(std::int64_t{e.workers} * routed)),
        ranks(memory.take<std::int32_t>(std::int64_t{e.workers} * routed)) {}
};

/// Scores, experts and weights of each token, from x (T, D) and router (R, D). The order of the
/// rules is `routing`'s. With a norm, its rows are made from x first, in the same pass.
inline void route_forward(cpu const& on, config const& c, routing_request const& request,
                          matrix<float const> x, fused_norm const* norm, matrix<float const> router,
                          matrix<float const> bias, routing<float> const& r,
                          route_scratch const& scratch) {
  using namespace simd;
  transposed const b(router);
  int const k = chosen(c, request);
  on.threads((x.rows + route_rows - 1) / route_rows, [&](std::int64_t task, int worker) {
    std::int64_t const begin = task * route_rows, end = std::min(x.rows, begin + route_rows);
    for (std::int64_t t = begin; norm && t < end; ++t)
      norm->inverse_rms[t] =
          normalise(x.row(t), norm->gain.data, x.cols, norm->epsilon, norm->rows.row(t));
    matrix<float const> const from = norm ? matrix<float const>(norm->rows) : x;
    multiply_block(from.middle_rows(begin, end - begin), x.cols, b, 0, b.panels(),
                   r.scores.middle_rows(begin, end - begin), gradients::overwrite);
    std::int64_t const mine = std::int64_t{worker} * c.routed;
    for (std::int64_t t = begin; t < end; ++t) {
      score_forward(c, r.scores.row(t));
      choose(c, request, r.scores.row(t), c.bias ? bias.data : nullptr, scratch.keys + mine,
             scratch.ranks + mine, r.experts.row(t));
      weigh_forward(c, k, r.scores.row(t), r.experts.row(t), r.weights.row(t));
    }
  });
}

/// Writes what the router did with a batch into the log's next report.
inline void report_routing(config const& c, routing_request const& request, routing<float> const& r,
                           dispatched const& d, routing_log& log) {
  if (log.next >= log.layers.size())
    throw invalid_argument("the routing log has room for %lld routers and there are more",
                           static_cast<long long>(log.layers.size()));
  std::int64_t const tokens = r.scores.rows;
  routing_report& report = log.layers[log.next++];
  report.load.assign(static_cast<std::size_t>(c.routed), 0);
  report.mean_score.assign(static_cast<std::size_t>(c.routed), 0.0);
  report.balance_loss = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    float const total = simd::score_sum(c, r.scores.row(t));
    for (int i = 0; i < c.routed; ++i)
      report.mean_score[static_cast<std::size_t>(i)] +=
          double(r.scores(t, i) / total) / double(tokens);
  }
  for (int i = 0; i < c.routed && tokens > 0; ++i) {
    auto const at = static_cast<std::size_t>(i);
    report.load[at] = d.offsets[i + 1] - d.offsets[i];
    report.balance_loss += request.balance * report.mean_score[at] *
                           simd::balance_factor(c, chosen(c, request), tokens, d, i);
  }
}

/// drouter (R, D), and what it adds to dx (T, D). dweights (T, k) are the gradients of the weights;
/// dlogits (T, R) is scratch.
inline void route_backward(cpu const& on, config const& c, routing_request const& request,
                           matrix<float const> x, matrix<float const> router,
                           routing<float> const& r, dispatched const& d,
                           matrix<float const> dweights, matrix<float> dlogits,
                           matrix<float> drouter, gradients mode, matrix<float> dx) {
  using namespace simd;
  int const k = chosen(c, request);
  on.threads((x.rows + route_rows - 1) / route_rows, [&](std::int64_t task, int) {
    for (std::int64_t t = task * route_rows; t < std::min(x.rows, (task + 1) * route_rows); ++t) {
      float* const ds = dlogits.row(t);
      std::fill_n(ds, c.routed, 0.0f);
      weigh_backward(c, k, r.scores.row(t), r.experts.row(t), dweights.row(t), ds);
      if (request.balance > 0)
        balance_backward(c, request.balance, k, x.rows, d, r.scores.row(t), ds);
      score_backward(c, r.scores.row(t), ds);
    }
  });
  linear_backward(on.exact(), x, router, dlogits, drouter, mode, dx, gradients::accumulate);
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
