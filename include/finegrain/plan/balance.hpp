// balance: the losses that routers add in training, and their gradients. For every executor.
//
// All losses but z, importance and load are sums over windows of tokens of f P, where f_i, how often
// expert i was chosen over the experts' mean, has no gradient, and P_i is the mean over the window of
// p_i, a token's scores divided by their sum. They are linear in p: `routing::factors` holds, in the
// row of a sequence's first token, what p of each of its tokens is multiplied with in the sum of all
// of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numbers>
#include <numeric>

#include "../base/math.hpp"
#include "assign.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Memory of the losses and of the report while they are made.
template <class S>
struct balance_scratch {
  double* counts;         // (workers, R)
  double* sent;           // (workers, R) by device
  double* factors;        // (workers, R) of a rule
  std::int32_t* best;     // (workers, R)
  S *column, *admission;  // (T), (T) of quantiles

  constexpr balance_scratch(arena& memory, extent e, config const& c)
      : counts(memory.take<double>(std::int64_t{e.workers} * c.routed)),
        sent(memory.take<double>(std::int64_t{e.workers} * c.routed)),
        factors(memory.take<double>(std::int64_t{e.workers} * c.routed)),
        best(memory.take<std::int32_t>(std::int64_t{e.workers} * c.routed)),
        column(memory.take<S>(c.bias ? e.tokens : 0)),
        admission(memory.take<S>(c.bias ? e.tokens : 0)) {}
};

namespace detail {

/// Whether there is a loss of the windows that `over` says.
inline bool has_windows(balance_losses const& loss) {
  return loss.expert > 0 || loss.device > 0 || loss.communication > 0 || loss.rule;
}
/// Whether there is a loss that is linear in scores: of these windows, or of each sequence.
inline bool reads_scores(balance_losses const& loss) {
  return has_windows(loss) || loss.sequence > 0;
}

/// What a token's scores are divided by to add up to 1: softmax does already.
template <class S>
S score_sum(config const& c, S const* scores) {
  if (c.score == score::softmax) return 1;
  S total = S(1e-20);
  for (int i = 0; i < c.routed; ++i) total += scores[i];
  return total;
}

template <class S>
S const* factors_of(batch const& b, routing<S> const& r, std::int64_t row) {
  return r.factors.row(b.begin(sequence_of(b, row)));
}

/// The range of a sequence's rows.
struct row_range {
  std::int64_t begin, end;
  double count() const { return static_cast<double>(end - begin); }
};
inline double sequences_with_tokens(batch const& b) {
  double count = 0;
  for (std::int64_t s = 0; s < b.sequences(); ++s) count += b.end(s) > b.begin(s);
  return count;
}

/// counts[i] = the slots in a window that chose expert i, dropped ones included.
template <class S>
void count_choices(int k, routing<S> const& r, row_range window, double* counts) {
  std::fill_n(counts, r.logits.cols, 0.0);
  for (std::int64_t t = window.begin; t < window.end; ++t)
    for (int slot = 0; slot < k; ++slot)
      if (r.experts(t, slot) != no_expert) ++counts[expert_in(r.experts(t, slot))];
}
/// Slots in use, an R-th of which is the experts' mean: K of each token, but of a rule, which may leave
/// slots unused, those of the R counts.
inline double used_slots(config const& c, batch const& b, double tokens, double const* counts) {
  if (c.selection != selection::rule) return double(chosen(c, b.routing)) * tokens;
  return std::accumulate(counts, counts + c.routed, 0.0);
}
/// The n best of R numbers, best first. (Above n numbers, fewer are compared with the last.)
template <class S>
void rank_first(S const* numbers, int R, int n, std::int32_t* best) {
  int kept = 0;
  for (int i = 0; i < R; ++i) {
    int at = kept;
    while (at > 0 && ranks_before(numbers[i], i, numbers[best[at - 1]], best[at - 1])) --at;
    if (at == n) continue;
    if (kept < n) ++kept;
    for (int move = kept - 1; move > at; --move) best[move] = best[move - 1];
    best[at] = i;
  }
}

/// counts[i] = the tokens in a window one of whose K best scores, without bias and groups, is i's.
template <class S>
void count_best(int k, routing<S> const& r, row_range window, std::int32_t* best, double* counts) {
  auto const R = static_cast<int>(r.scores.cols);
  std::fill_n(counts, R, 0.0);
  for (std::int64_t t = window.begin; t < window.end; ++t) {
    rank_first(r.scores.row(t), R, k, best);
    for (int n = 0; n < k; ++n) ++counts[best[n]];
  }
}

/// What the load loss is made of: the probability that fresh noise on its own logit alone would
/// have token t choose expert i is Phi(z), z = (logit before noise - the logit to beat) / deviation
/// [Shazeer 2017, A].
template <class S>
struct noisy_choice {
  int k;
  std::int32_t* best;  // (k + 1), best first
  routing<S> const& r;
  std::int64_t t;

  noisy_choice(int k, std::int32_t* best, routing<S> const& r, std::int64_t t)
      : k(k), best(best), r(r), t(t) {
    S const* const h = r.logits.row(t);
    rank_first(h, static_cast<int>(r.logits.cols), k + 1, best);
  }
  /// Whose logit expert i must beat: the last chosen one's, or the next one's if i is chosen.
  std::int32_t rival(int i) const {
    return best[std::find(best, best + k, i) != best + k ? k : k - 1];
  }
  S deviation(int i) const { return softplus(r.spread(t, i)) + S(1e-10); }
  S z(int i) const {
    S const clean = r.logits(t, i) - noise_of(r, t, i) * softplus(r.spread(t, i));
    return (clean - r.logits(t, rival(i))) / deviation(i);
  }
};

/// The report of this router for the step's earlier batches, or null.
inline routing_report const* earlier_report(batch const& b) {
  routing_log const* const log = b.routing.earlier;
  return log && b.log && b.log->next < log->layers.size() ? &log->layers[b.log->next] : nullptr;
}

/// Adds the factors of the expert-level, device-level and communication losses of one window,
/// times `share`, to `to`.
template <class S>
void add_window(config const& c, batch const& b, routing<S> const& r, row_range window,
                double share, balance_scratch<S> const& t, int worker, S* to) {
  balance_losses const& loss = losses_of(c, b.routing);
  int const k = slots(c, b.routing), R = c.routed, D = b.routing.devices, size = R / D;
  double *const f = t.counts + worker * R, *const sent = t.sent + worker * R;
  double tokens = window.count();
  count_choices(k, r, window, f);
  if (auto const* before = loss.over == window::batch ? earlier_report(b) : nullptr) {
    tokens += static_cast<double>(before->tokens);
    for (int i = 0; i < R; ++i) f[i] += static_cast<double>(before->load[std::size_t(i)]);
  }
  double const used = used_slots(c, b, tokens, f);
  for (int i = 0; i < R && used > 0; ++i) f[i] *= R / used;
  if (loss.communication > 0) {
    std::fill_n(sent, D, 0.0);
    for (std::int64_t row = window.begin; row < window.end; ++row)
      for (int slot = 0; slot < k; ++slot) {
        auto const device = [&](int n) { return expert_in(r.experts(row, n)) / size; };
        if (r.experts(row, slot) == no_expert) continue;
        bool first = true;
        for (int n = 0; n < slot; ++n) first &= device(n) != device(slot);
        sent[device(slot)] += first;
      }
  }
  if (loss.rule) {
    double* const factors = t.factors + worker * R;
    loss.rule->factors(span_of<double const>(f, R), span_of(factors, R));
    for (int i = 0; i < R; ++i) to[i] += S(share / window.count() * factors[i]);
  }
  for (int d = 0; d < D; ++d) {
    double mean = 0;
    for (int i = d * size; i < (d + 1) * size; ++i) mean += f[i] / size;
    double const by_device =
        loss.device * mean +
        (loss.communication > 0
             ? loss.communication * sent[d] * D / (most_devices(c, b.routing) * window.count())
             : 0.0);
    for (int i = d * size; i < (d + 1) * size; ++i)
      to[i] += S(share / window.count() * (loss.expert * f[i] + by_device));
  }
}

/// CV^2 of n numbers: their variance over their squared mean.
template <class S>
double squared_variation(int n, S const* x) {
  double mean = 0, variance = 0;
  for (int i = 0; i < n; ++i) mean += double(x[i]) / n;
  for (int i = 0; i < n; ++i) variance += math::pow(double(x[i]) - mean, 2) / n;
  return mean > 0 ? variance / (mean * mean) : 0;
}
/// dx = coefficient * d CV^2 / dx = coefficient * 2 / n * ((x - mean) / mean^2 - CV^2 / mean).
template <class S>
void variation_backward(double coefficient, int n, S const* x, S* dx) {
  double const squared = squared_variation(n, x);
  double mean = 0;
  for (int i = 0; i < n; ++i) mean += double(x[i]) / n;
  for (int i = 0; i < n; ++i)
    dx[i] = mean > 0
                ? S(coefficient * 2 / n * ((double(x[i]) - mean) / (mean * mean) - squared / mean))
                : S(0);
}

/// Adds the factors of the sequence-wise loss of one sequence to `to`.
template <class S>
void add_sequence(config const& c, batch const& b, routing<S> const& r, row_range rows,
                  double sequences, balance_scratch<S> const& t, int worker, S* to) {
  int const R = c.routed, k = chosen(c, b.routing);
  double* const f = t.counts + worker * R;
  count_best(k, r, rows, t.best + worker * R, f);
  double const share = losses_of(c, b.routing).sequence * R / (k * rows.count());
  for (int i = 0; i < R; ++i) to[i] += S(share * f[i] / (sequences * rows.count()));
}
/// Adds the factors of the losses whose window is the whole batch to those of each sequence.
template <class S>
void add_batch(config const& c, batch const& b, routing<S> const& r, balance_scratch<S> const& t) {
  int const R = c.routed;
  S* const factors = r.importance;  // until its own turn, room for the window's factors
  std::fill_n(factors, R, S(0));
  add_window(c, b, r, {0, r.logits.rows}, 1.0, t, 0, factors);
  for (std::int64_t s = 0; s < b.sequences(); ++s)
    for (int i = 0; i < R && b.begin(s) < b.end(s); ++i) r.factors(b.begin(s), i) += factors[i];
}
/// The gradient of the importance loss with respect to a weight of each expert: 0 without that loss.
template <class S>
void importance_forward(config const& c, batch const& b, routing<S> const& r) {
  double const coefficient = losses_of(c, b.routing).importance;
  std::fill_n(r.importance, c.routed, S(0));
  if (!(coefficient > 0)) return;
  for (std::int64_t row = 0; row < r.logits.rows; ++row)
    for (int slot = 0; slot < slots(c, b.routing); ++slot)
      if (is_kept(r.experts(row, slot))) r.importance[r.experts(row, slot)] += r.weights(row, slot);
  variation_backward(coefficient, c.routed, r.importance, r.importance);
}
/// Smooth loads, the sums of tokens' probabilities to choose an expert; and the load loss's gradient
/// with respect to them.
template <class S>
void load_forward(config const& c, batch const& b, routing<S> const& r,
                  balance_scratch<S> const& t) {
  double const coefficient = losses_of(c, b.routing).load;
  if (!(coefficient > 0) || !r.training) return;
  int const R = c.routed;
  std::fill_n(r.smooth.data, 2 * R, S(0));
  for (std::int64_t row = 0; row < r.logits.rows; ++row) {
    noisy_choice<S> const choice(slots(c, b.routing), t.best, r, row);
    for (int i = 0; i < R; ++i) r.smooth(0, i) += math::erfc(-choice.z(i) / math::sqrt(S(2))) / 2;
  }
  variation_backward(coefficient, R, r.smooth.row(0), r.smooth.row(1));
}

}  // namespace detail

/// Makes the losses' factors, from scores and experts. A no-op without coefficients.
template <class X, class S>
void balance_forward(X const& on, config const& c, batch const& b, routing<S> const& r,
                     balance_scratch<S> const& t) {
  balance_losses const& loss = losses_of(c, b.routing);
  if (loss == balance_losses{} || r.logits.rows == 0) return;
  bool const windows = detail::has_windows(loss);
  double const sequences = detail::sequences_with_tokens(b);
  on.threads(b.sequences(), [&](std::int64_t s, int worker) {
    detail::row_range const rows{b.begin(s), b.end(s)};
    if (rows.begin == rows.end) return;
    S* const to = r.factors.row(rows.begin);
    std::fill_n(to, c.routed, S(0));
    if (windows && loss.over == window::sequence)
      detail::add_window(c, b, r, rows, 1 / sequences, t, worker, to);
    if (loss.sequence > 0) detail::add_sequence(c, b, r, rows, sequences, t, worker, to);
  });
  if (windows && loss.over == window::batch) detail::add_batch(c, b, r, t);
  detail::importance_forward(c, b, r);
  detail::load_forward(c, b, r, t);
}

namespace detail {

/// log sum exp of a token's logits. A softmax score says it: its logit minus its logarithm.
template <class S>
S log_sum_exp(config const& c, S const* logits, S const* scores) {
  auto const at = std::max_element(logits, logits + c.routed) - logits;
  if (c.score == score::softmax && c.precision != precision::bf16)
    return logits[at] - math::log(scores[at]);
  S sum = 0;
  for (int i = 0; i < c.routed; ++i) sum += math::exp(logits[i] - logits[at]);
  return logits[at] + math::log(sum);
}

}  // namespace detail

/// Adds the losses' gradients to those of the weights (T, k).
template <class S>
void balance_weights_backward(config const& c, batch const& b, routing<S> const& r,
                              matrix<S> dweights) {
  if (!(losses_of(c, b.routing).importance > 0)) return;
  for (std::int64_t t = 0; t < r.logits.rows; ++t)
    for (int slot = 0; slot < slots(c, b.routing); ++slot)
      if (is_kept(r.experts(t, slot))) dweights(t, slot) += r.importance[r.experts(t, slot)];
}
/// Adds to the gradients of row t's scores.
template <class S>
void balance_scores_backward(config const& c, batch const& b, routing<S> const& r, std::int64_t t,
                             S* dscores) {
  balance_losses const& loss = losses_of(c, b.routing);
  if (!detail::reads_scores(loss)) return;
  S const *const factor = detail::factors_of(b, r, t), *const s = r.scores.row(t);
  S const total = detail::score_sum(c, s);
  S mean = 0;
  for (int i = 0; i < c.routed && c.score != score::softmax; ++i) mean += factor[i] * s[i] / total;
  for (int i = 0; i < c.routed; ++i) dscores[i] += (factor[i] - mean) / total;
}
/// Adds to the gradients of row t's logits; `best` has room for R.
template <class S>
void balance_logits_backward(config const& c, batch const& b, routing<S> const& r, std::int64_t t,
                             std::int32_t* best, logit_scratch<S> const& to, S* dlogits) {
  if (losses_of(c, b.routing).load > 0) {
    detail::noisy_choice<S> const choice(slots(c, b.routing), best, r, t);
    for (int i = 0; i < c.routed; ++i) to.dclean(t, i) = 0;
    for (int i = 0; i < c.routed; ++i) {
      S const z = choice.z(i);
      S const step = r.smooth(1, i) * math::exp(-z * z / 2) /
                     math::sqrt(2 * std::numbers::pi_v<S>) / choice.deviation(i);
      to.dclean(t, i) += step;
      to.ddeviation(t, i) = -step * z;
      dlogits[choice.rival(i)] -= step;
    }
  }
  if (!(losses_of(c, b.routing).z > 0)) return;
  S const* const logits = r.logits.row(t);
  S const log_sum = detail::log_sum_exp(c, logits, r.scores.row(t));
  S const factor = S(2 * losses_of(c, b.routing).z / double(r.logits.rows)) * log_sum;
  for (int i = 0; i < c.routed; ++i) dlogits[i] += factor * math::exp(logits[i] - log_sum);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
