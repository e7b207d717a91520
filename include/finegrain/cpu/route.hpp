// The router: scores and the choice of k experts for each token, in one pass over x.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "../plan/combine_weights.hpp"
#include "../plan/report.hpp"
#include "executor.hpp"
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

inline constexpr std::int64_t route_rows = 32;

/// x = f(x) for n numbers, vector by vector; the last one's lanes behind them are 0, and are not stored.
template <class F>
FINEGRAIN_INLINE void map(float* x, std::int64_t n, F&& f) {
  std::int64_t c = 0;
  for (; c + lanes <= n; c += lanes) store(x + c, f(load(x + c)));
  if (c < n) store_first(x + c, f(load_first(x + c, n - c)), n - c);
}

/// Logits become scores.
FINEGRAIN_LAZY inline void score_forward(config const& c, float* s) {
  switch (c.score) {
    case score::softmax: {
      float const highest = *std::max_element(s, s + c.routed);
      map(s, c.routed, [highest](vec x) { return exp(x - highest); });
      float const sum = sum_over(c.routed, [s](auto at) { return at(s); });
      map(s, c.routed, [sum](vec x) { return x / sum; });
      break;
    }
    case score::sigmoid: map(s, c.routed, [](vec x) { return sigmoid(x); }); break;
    case score::sqrt_softplus:
      for (int i = 0; i < c.routed; ++i) s[i] = math::sqrt(finegrain::detail::softplus(s[i]));
  }
  if (c.precision == precision::bf16)
    for (int i = 0; i < c.routed; ++i) s[i] = rounded_to_bf16(s[i]);
}
/// Gradients of scores become gradients of logits. The scores say all that is needed:
/// sigmoid' = s (1 - s), and sqrt(softplus)' = sigmoid / (2 s) with sigmoid = 1 - exp(-s^2).
FINEGRAIN_LAZY inline void score_backward(config const& c, float const* s, float* ds) {
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
        ds[i] *= s[i] == 0 ? 0 : -math::expm1(-s[i] * s[i]) / (2 * s[i]);
  }
}

// ---- the choice, on integers in the order of the keys -------------------------------------------

/// Below every rank.
inline constexpr std::int64_t out = INT64_MIN;

/// An integer that is larger for a larger key, and in equal keys for a lower index; lowest for NaN.
/// No two are the same.
inline std::int64_t rank(float key, int index) {
  auto const bits = __builtin_bit_cast(std::int32_t, key + 0.0f);  // -0 becomes +0
  std::int32_t const high = key != key ? INT32_MIN + 1 : bits < 0 ? bits ^ INT32_MAX : bits;
  return std::int64_t{high} << 32 | (0xffffffff - static_cast<std::uint32_t>(index));
}
/// ranks[i] of keys[i], for n of them.
inline void rank_all(float const* keys, int n, std::int64_t* ranks) {
  int i = 0;
#if FINEGRAIN_VECTOR_BYTES > 16
  constexpr int wide = FINEGRAIN_VECTOR_BYTES / 8;
  using vec64 = std::int64_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
  using half_float = float __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES / 2)));
  using half_int = std::int32_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES / 2)));
  vec64 low;
  for (int lane = 0; lane < wide; ++lane) low[lane] = std::int64_t{0xffffffff} - lane;
  for (; i + wide <= n; i += wide, low -= wide) {
    half_float key;
    __builtin_memcpy(&key, keys + i, sizeof key);
    key += 0.0f;
    auto const bits = reinterpret_cast<half_int>(key);
    half_int const ordered = bits < 0 ? bits ^ INT32_MAX : bits;
    half_int const high = key != key ? half_int{} + (INT32_MIN + 1) : ordered;
    vec64 const rank = __builtin_convertvector(high, vec64) << 32 | low;
    __builtin_memcpy(ranks + i, &rank, sizeof rank);
  }
#endif
  for (; i < n; ++i) ranks[i] = rank(keys[i], i);
}
inline int index_of(std::int64_t rank) {
  return static_cast<int>(0xffffffff - static_cast<std::uint32_t>(rank));
}

/// The highest of n ranks below a limit. Ranks that were taken are passed by, not removed: nothing
/// is written between one choice and the next.
inline std::int64_t best_below(std::int64_t limit, std::int64_t const* ranks, int n) {
  using vec64 = std::int64_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
  constexpr int wide = FINEGRAIN_VECTOR_BYTES / 8;
  std::int64_t best = out;
  int i = 0;
  if (n >= wide) {
    vec64 const bound = vec64{} + limit;
    vec64 most = vec64{} + out;
    for (; i + wide <= n; i += wide) {
      vec64 v;
      __builtin_memcpy(&v, ranks + i, sizeof v);
      v = v < bound ? v : vec64{} + out;
      most = v > most ? v : most;
    }
    for (int lane = 0; lane < wide; ++lane) best = std::max(best, std::int64_t{most[lane]});
  }
  for (; i < n; ++i)
    if (ranks[i] < limit) best = std::max(best, ranks[i]);
  return best;
}

/// Moves the ranks of experts in the best group_limit groups to the front; returns how many there
/// are. `groups` has room for the groups' ranks.
FINEGRAIN_LAZY inline int limit_groups(config const& c, float const* keys, std::int64_t* ranks,
                                       std::int64_t* groups) {
  int const size = c.routed / c.groups;
  for (int g = 0; g < c.groups; ++g) {
    std::int64_t best = best_below(INT64_MAX, ranks + g * size, size);
    float worth = keys[index_of(best)];
    for (int n = 1; n < group_keys(c); ++n) {
      best = best_below(best, ranks + g * size, size);
      worth += keys[index_of(best)];
    }
    groups[g] = rank(worth, g);
  }
  std::int64_t last = INT64_MAX;
  for (int n = 0; n < c.group_limit; ++n) last = best_below(last, groups, c.groups);
  std::int64_t* end = ranks;
  for (int g = 0; g < c.groups; ++g)
    if (groups[g] >= last) end = std::copy_n(ranks + g * size, size, end);
  return static_cast<int>(end - ranks);
}

/// One token's experts. `keys` has room for R numbers, `ranks` for 2 R.
FINEGRAIN_LAZY inline void choose(config const& c, routing_request const& request,
                                  float const* scores, float const* bias, float* keys,
                                  std::int64_t* ranks, std::int32_t* experts) {
  for (int i = 0; i < c.routed; ++i) keys[i] = scores[i] + (bias ? bias[i] : 0.0f);
  rank_all(keys, c.routed, ranks);
  int const n =
      c.group_limit < c.groups ? limit_groups(c, keys, ranks, ranks + c.routed) : c.routed;
  std::int64_t best = INT64_MAX;
  for (int i = 0; i < request.mask_best; ++i) best = best_below(best, ranks, n);
  for (int slot = 0; slot < chosen(c, request); ++slot) {
    best = best_below(best, ranks, n);
    experts[slot] = index_of(best);
  }
}

}  // namespace simd

/// Memory of a router while it runs.
struct route_scratch {
  float* keys;          // (workers, R) a token's
  std::int64_t* ranks;  // (workers, 2 R)
  logit_scratch<float> logits;
  assign_scratch<float> assign;
  balance_scratch<float> balance;
  matrix<float> dweights, dlogits;  // (T, k), (T, R) in training

  constexpr route_scratch(arena& memory, extent e, config const& c)
      : keys(memory.take<float>(std::int64_t{e.workers} * c.routed)),
        ranks(memory.take<std::int64_t>(std::int64_t{e.workers} * 2 * c.routed)),
        logits(memory, e, c),
        assign(memory, e, c),
        balance(memory, e, c),
        dweights(memory.matrix<float>(e.training ? e.tokens : 0, finegrain::slots(c, e))),
        dlogits(memory.matrix<float>(e.training ? e.tokens : 0, c.routed)) {}
};

/// Scores, experts and weights of each token, from x (T, D). The order of the rules is `routing`'s.
/// With a norm, its rows are made from x first, in the same pass.
FINEGRAIN_LAZY inline void route_forward(cpu const& on, config const& c, batch const& b,
                                         matrix<float const> x, fused_norm const* norm,
                                         router_weights<float const> const& w,
                                         routing<float> const& r, route_scratch const& scratch) {
  using namespace simd;
  int const k = slots(c, b.routing);
  *r.seed = random_word(b.routing.seed, b.log ? b.log->next : 0);
  matrix<float const> const from = norm ? matrix<float const>(norm->rows) : x;
  bool const made = c.selection == selection::expert_choice || c.selection == selection::rule ||
                    c.selection == selection::given;
  bool const together = made || (c.selection == selection::sinkhorn && r.training);
  matrix<float const> keys = c.by_logits ? r.logits : r.scores;

  auto const normalise_row = [&](std::int64_t t) {
    norm->inverse_rms[t] =
        normalise(x.row(t), norm->gain.data, x.cols, norm->epsilon, norm->rows.row(t));
  };
  auto const score_row = [&](std::int64_t t) {
    std::copy_n(r.logits.row(t), c.routed, r.scores.row(t));
    score_forward(c, r.scores.row(t));
  };
  auto const choose_row = [&](std::int64_t t, int worker) {
    if (c.selection == selection::hash)
      look_up(c, k, w.table, b.ids[static_cast<std::size_t>(t)], r.experts.row(t));
    else if (!made)
      choose(c, b.routing, keys.row(t), c.bias ? w.bias.data : nullptr,
             scratch.keys + std::int64_t{worker} * c.routed,
             scratch.ranks + std::int64_t{worker} * 2 * c.routed, r.experts.row(t));
    weigh_forward(c, k, r.logits.row(t), r.scores.row(t), r.experts.row(t), r.weights.row(t));
  };

  bool const plain = plain_logits(c);
  if (!plain) {
    if (norm)
      finegrain::detail::for_rows(on, x.rows, [&](std::int64_t t, int) { normalise_row(t); });
    logits_forward(on, c, b.routing, from, w, r, scratch.logits);
  }
  transposed const router(plain ? w.router : matrix<float const>());
  on.threads(ceil_div(x.rows, route_rows), [&](std::int64_t task, int worker) {
    std::int64_t const begin = task * route_rows, end = std::min(x.rows, begin + route_rows);
    for (std::int64_t t = begin; plain && norm && t < end; ++t) normalise_row(t);
    if (plain)
      multiply_block(from.middle_rows(begin, end - begin), x.cols, router, 0, router.panels(),
                     r.logits.middle_rows(begin, end - begin), gradients::overwrite);
    for (std::int64_t t = begin; t < end; ++t) score_row(t);
    for (std::int64_t t = begin; !together && t < end; ++t) choose_row(t, worker);
  });
  if (together) {
    if (c.selection == selection::expert_choice)
      choose_tokens(on, c, chosen(c, b.routing), r, scratch.assign);
    else if (c.selection == selection::rule)
      choose_by_rule(c, b, r, scratch.assign);
    else if (c.selection == selection::given)
      take_choice(c, b, r);
    else
      keys = sinkhorn_keys(r, scratch.assign);
    finegrain::detail::for_rows(on, x.rows, choose_row);
  }
  drop_slots(on, c, b, r, scratch.assign);
  balance_forward(on, c, b, r, scratch.balance);
  if (b.log) report_routing(c, b, r, w, scratch.balance, *b.log);
}

/// Gradients of the router's weights, and what they add to dx (T, D), from those of the weights in
/// scratch.dweights (T, k) and the balance losses.
FINEGRAIN_LAZY inline void route_backward(cpu const& on, config const& c, batch const& b,
                                          matrix<float const> x,
                                          router_weights<float const> const& w,
                                          routing<float> const& r, route_scratch const& scratch,
                                          router_weights<float> const& dw, gradients mode,
                                          matrix<float> dx) {
  int const k = slots(c, b.routing);
  give_gradients<float>(c, r, scratch.dweights);
  balance_weights_backward(c, b, r, scratch.dweights);
  finegrain::detail::for_rows(on, x.rows, [&](std::int64_t t, int worker) {
    float* const ds = scratch.dlogits.row(t);
    std::fill_n(ds, c.routed, 0.0f);
    weigh_backward(c, k, r.scores.row(t), r.experts.row(t), scratch.dweights.row(t), ds);
    balance_scores_backward(c, b, r, t, ds);
    simd::score_backward(c, r.scores.row(t), ds);
    weigh_logits_backward(c, k, r.logits.row(t), r.experts.row(t), scratch.dweights.row(t), ds);
    balance_logits_backward(c, b, r, t, scratch.balance.best + worker * c.routed, scratch.logits,
                            ds);
  });
  logits_backward(on, c, b.routing, x, w, r, scratch.logits, scratch.dlogits, dw, mode, dx);
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
