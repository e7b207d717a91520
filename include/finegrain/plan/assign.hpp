// assign: rules of routing that look at all tokens of a batch together, for every executor:
// Sinkhorn, expert choice, chance, and what full experts and devices drop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "logits.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Memory of these rules while they run.
template <class S>
struct assign_scratch {
  matrix<double> scores;    // (T, R) for a rule
  matrix<S> keys;           // (T, R) of Sinkhorn
  S *by_token, *by_expert;  // (T), (R) of Sinkhorn
  std::int32_t* order;      // (T k) slots, or (workers, T) tokens
  std::int64_t* ends;       // (R + 1)

  constexpr assign_scratch(arena& memory, extent e, config const& c)
      : scores(memory.matrix<double>(c.selection == selection::rule ? e.tokens : 0, c.routed)),
        keys(memory.matrix<S>(balanced(c) ? e.tokens : 0, c.routed)),
        by_token(memory.take<S>(balanced(c) ? e.tokens : 0)),
        by_expert(memory.take<S>(balanced(c) ? c.routed : 0)),
        order(memory.take<std::int32_t>(
            e.tokens * (c.selection == selection::expert_choice ? e.workers : slots(c, e)))),
        ends(memory.take<std::int64_t>(c.routed + 1)) {}

  static constexpr bool balanced(config const& c) { return c.selection == selection::sinkhorn; }
};

namespace detail {

/// Whether key a of row i ranks before key b of row j: the higher, then the earlier; NaN last.
template <class T>
bool ranks_before(T a, std::int64_t i, T b, std::int64_t j) {
  if (a > b || (math::isnan(b) && !math::isnan(a))) return true;
  return (a == b || (math::isnan(a) && math::isnan(b))) && i < j;
}

template <class S>
bool is_exempt(routing_request const& request, routing<S> const& r, std::int64_t sequence) {
  return random_uniform(seed_of(*r.seed, stream::exempt), static_cast<std::uint64_t>(sequence)) <
         request.exempt;
}

/// Drops slots of each of `parts` equal groups of experts beyond `room`. Slots, numbered t k + slot,
/// are ordered by before(a, b); those of least rank go, unless they are exempt(slot).
template <class X, class S, class Before, class Exempt>
void drop_beyond(X const& on, config const& c, int parts, std::int64_t room, int k,
                 routing<S> const& r, assign_scratch<S> const& t, Before&& before,
                 Exempt&& exempt) {
  std::int64_t const slots = r.logits.rows * k;
  int const size = c.routed / parts;
  auto const slot = [&](std::int64_t n) -> std::int32_t& { return r.experts(n / k, n % k); };
  std::fill_n(t.ends, parts + 1, std::int64_t{0});
  for (std::int64_t n = 0; n < slots; ++n)
    if (is_kept(slot(n))) ++t.ends[slot(n) / size + 1];
  for (int p = 0; p < parts; ++p) t.ends[p + 1] += t.ends[p];
  std::int64_t const all = t.ends[parts];
  for (std::int64_t n = slots; n-- > 0;)  // from the end: a part's slots keep their order
    if (is_kept(slot(n))) t.order[--t.ends[slot(n) / size + 1]] = static_cast<std::int32_t>(n);
  on.threads(parts, [&](std::int64_t p, int) {
    std::int32_t* const begin = t.order + t.ends[p + 1];
    std::int32_t* const end = t.order + (p + 1 < parts ? t.ends[p + 2] : all);
    if (end - begin <= room) return;
    std::nth_element(begin, begin + room, end, before);
    for (std::int32_t* n = begin + room; n < end; ++n) {
      if (exempt(*n)) continue;
      slot(*n) = ~slot(*n);
      r.weights(*n / k, *n % k) = 0;
    }
  });
}

}  // namespace detail

/// Keys that Sinkhorn's iteration has balanced, as Megatron-Core computes them; but a token's are over
/// the highest of its logits, which its factor makes up for, so that none is infinite. A token whose
/// logits are not finite counts as one of equal logits.
template <class S>
matrix<S const> sinkhorn_keys(routing<S> const& r, assign_scratch<S> const& t) {
  std::int64_t const T = r.logits.rows, R = r.logits.cols;
  for (std::int64_t i = 0; i < T; ++i) {
    S const highest = *std::max_element(r.logits.row(i), r.logits.row(i) + R);
    S sum = 0;
    for (std::int64_t e = 0; e < R; ++e) sum += t.keys(i, e) = math::exp(r.logits(i, e) - highest);
    if (!math::isfinite(sum)) std::fill_n(t.keys.row(i), R, S(1));
  }
  std::fill_n(t.by_expert, R, S(1));
  double change = 1;
  for (int rounds = 0; T > 0 && change > 1e-4 && rounds < 1000; ++rounds) {
    for (std::int64_t i = 0; i < T; ++i) {
      S sum = 0;
      for (std::int64_t e = 0; e < R; ++e) sum += t.by_expert[e] * t.keys(i, e);
      t.by_token[i] = 1 / S(T) / (sum + S(1e-8));
    }
    change = 0;
    for (std::int64_t e = 0; e < R; ++e) {
      S sum = 0;
      for (std::int64_t i = 0; i < T; ++i) sum += t.by_token[i] * t.keys(i, e);
      S const factor = 1 / S(R) / (sum + S(1e-8));
      change += math::abs(static_cast<double>(factor - t.by_expert[e])) / static_cast<double>(R);
      t.by_expert[e] = factor;
    }
  }
  for (std::int64_t i = 0; i < T; ++i)
    for (std::int64_t e = 0; e < R; ++e) t.keys(i, e) *= t.by_expert[e] * t.by_token[i];
  return t.keys;
}

/// Each expert takes its ceil(T k / R) tokens of highest score [expert choice].
template <class X, class S>
void choose_tokens(X const& on, config const& c, int k, routing<S> const& r,
                   assign_scratch<S> const& t) {
  std::int64_t const T = r.scores.rows, share = share_of(c, k, T);
  on.threads(c.routed, [&](std::int64_t e, int worker) {
    std::int32_t* const order = t.order + worker * T;
    for (std::int64_t i = 0; i < T; ++i) order[i] = static_cast<std::int32_t>(i);
    std::nth_element(order, order + share, order + T, [&](std::int32_t i, std::int32_t j) {
      return detail::ranks_before(r.scores(i, e), i, r.scores(j, e), j);
    });
    for (std::int64_t i = 0; i < T; ++i)
      r.experts(order[i], e) = i < share ? static_cast<std::int32_t>(e) : no_expert;
  });
  detail::for_rows(on, T, [&](std::int64_t i, int) {
    std::int32_t* const slots = r.experts.row(i);
    std::fill(std::remove(slots, slots + c.routed, no_expert), slots + c.routed, no_expert);
  });
}

/// The experts that a table has for a token's id: distinct and in range, whatever it holds.
template <class S>
void look_up(config const& c, int k, matrix<S const> table, std::int32_t id,
             std::int32_t* experts) {
  for (int slot = 0; slot < k; ++slot) {
    double const entry = static_cast<double>(table(id, slot));
    auto expert = static_cast<std::int32_t>(
        entry >= 0 && entry < 9e15 ? static_cast<std::int64_t>(entry) % c.routed : 0);
    while (std::find(experts, experts + slot, expert) != experts + slot)
      expert = expert + 1 < c.routed ? expert + 1 : 0;
    experts[slot] = expert;
  }
}

/// Experts as the batch's rule chooses them. Throws invalid_argument when they are none of its.
template <class S>
void choose_by_rule(config const& c, batch const& b, routing<S> const& r,
                    assign_scratch<S> const& t) {
  int const k = slots(c, b.routing);
  for (std::int64_t i = 0; i < r.scores.rows; ++i) {
    std::fill_n(r.experts.row(i), k, no_expert);
    for (int e = 0; e < c.routed; ++e) t.scores(i, e) = static_cast<double>(r.scores(i, e));
  }
  b.routing.rule->choose(b, t.scores, r.experts.middle_cols(0, k));
  detail::check_experts("the routing rule", c.routed, r.experts.middle_cols(0, k), no_expert);
}

/// Experts and weights as they come with the batch.
template <class S>
void take_choice(config const& c, batch const& b, routing<S> const& r) {
  given_choice const& choice = b.given[b.taken++];
  int const k = slots(c, b.routing);
  for (std::int64_t i = 0; i < choice.experts.rows; ++i) {
    for (int slot = 0; slot < k; ++slot) {
      std::int32_t const e = choice.experts(i, slot);
      r.experts(i, slot) = e < 0 ? no_expert : e;
      r.weights(i, slot) = e < 0 ? S(0) : S(choice.weights(i, slot));
    }
  }
  *r.given_dweights = choice.dweights;
}
/// Hands out the gradients (T, k) of weights that came with the batch.
template <class S>
void give_gradients(config const& c, routing<S> const& r, matrix<S const> dweights) {
  if (c.selection != selection::given || !r.given_dweights->data) return;
  for (std::int64_t i = 0; i < r.given_dweights->rows; ++i)
    for (std::int64_t slot = 0; slot < r.given_dweights->cols; ++slot)
      (*r.given_dweights)(i, slot) = static_cast<float>(dweights(i, slot));
}

/// Drops slots: second experts by chance, then what devices and experts have no room for.
template <class X, class S>
void drop_slots(X const& on, config const& c, batch const& b, routing<S> const& r,
                assign_scratch<S> const& t) {
  routing_request const& request = b.routing;
  int const k = slots(c, request);
  std::int64_t const T = r.logits.rows;
  if (c.chance_second && r.training && k == 2)
    for (std::int64_t i = 0; i < T; ++i)
      if (random_uniform(detail::seed_of(*r.seed, detail::stream::chance),
                         static_cast<std::uint64_t>(i)) >=
          2 * static_cast<double>(r.weights(i, 1)) / static_cast<double>(c.scale)) {
        r.experts(i, 1) = ~r.experts(i, 1);
        r.weights(i, 1) = 0;
      }
  auto const drop_from = [&](int parts, double capacity, bool by_weight, bool exempts) {
    auto const exempt = [&](std::int32_t n) {
      return exempts && detail::is_exempt(request, r, detail::sequence_of(b, n / k));
    };
    auto const before = [&](std::int32_t n, std::int32_t m) {
      if (!by_weight) return n % k != m % k ? n % k < m % k : n < m;
      bool const one = exempt(n);
      return one != exempt(m)
                 ? one
                 : detail::ranks_before(r.weights(n / k, n % k), n, r.weights(m / k, m % k), m);
    };
    detail::drop_beyond(on, c, parts, detail::room_of(capacity, T * k, parts), k, r, t, before,
                        exempt);
  };
  if (request.device_capacity > 0) drop_from(request.devices, request.device_capacity, true, true);
  if (request.capacity > 0)
    drop_from(c.routed, request.capacity, request.drop == drop::least_weight, false);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
