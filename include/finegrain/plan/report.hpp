// report: what a router did with a batch, written down in the forward pass. For every executor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "balance.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace detail {

/// The bias with which each expert's key would have been above the thresholds of K T / R tokens:
/// minus that order statistic of keys without it, over the token's threshold, which is its best key
/// that is not chosen. Groups are not looked at.
template <class S>
void report_quantiles(config const& c, int k, routing<S> const& r, matrix<S const> bias,
                      balance_scratch<S> const& t, routing_report& report) {
  std::int64_t const T = r.logits.rows, target = T * k / c.routed;
  if (!c.bias || T == 0 || k == c.routed) return;
  matrix<S> const from = c.by_logits ? r.logits : r.scores;
  for (std::int64_t i = 0; i < T; ++i) {
    for (int e = 0; e < c.routed; ++e) t.best[e] = e;
    auto const key = [&](std::int32_t e) { return from(i, e) + bias(0, e); };
    std::nth_element(t.best, t.best + k, t.best + c.routed, [&](std::int32_t a, std::int32_t b) {
      return ranks_before(key(a), a, key(b), b);
    });
    t.admission[i] = key(t.best[k]);
  }
  for (int e = 0; e < c.routed; ++e) {
    for (std::int64_t i = 0; i < T; ++i) t.column[i] = from(i, e) - t.admission[i];
    std::nth_element(t.column, t.column + target, t.column + T,
                     [](S a, S b) { return ranks_before(a, 0, b, 0); });
    report.quantile[std::size_t(e)] = -static_cast<double>(t.column[target]);
  }
}

/// Each token's choice, if the report has room for it.
template <class S>
void report_choices(int k, routing<S> const& r, routing_report& report) {
  if (report.experts.empty()) return;
  report.slots = k;
  for (std::int64_t t = 0; t < r.experts.rows; ++t) {
    std::copy_n(r.experts.row(t), k, report.experts.begin() + t * k);
    for (int n = 0; n < k; ++n)
      report.weights[std::size_t(t * k + n)] = static_cast<float>(r.weights(t, n));
  }
}

/// Adds a token's slots to the experts' counts, and the weights of those that are kept to `weights`
/// (R). Returns how many devices, of `size` experts each, these are on.
template <class S>
std::int64_t count_slots(int k, int size, routing<S> const& r, std::int64_t row, double* weights,
                         routing_report& report) {
  std::int32_t const* const experts = r.experts.row(row);
  std::int64_t devices = 0;
  for (int slot = 0; slot < k; ++slot) {
    if (experts[slot] == no_expert) continue;
    ++report.load[std::size_t(expert_in(experts[slot]))];
    if (!is_kept(experts[slot])) {
      ++report.dropped[std::size_t(expert_in(experts[slot]))];
      continue;
    }
    weights[experts[slot]] += double(r.weights(row, slot));
    bool first = true;  // on its device
    for (int n = 0; n < slot && first; ++n)
      first = !is_kept(experts[n]) || experts[n] / size != experts[slot] / size;
    devices += first;
  }
  return devices;
}

/// The entropy of a token's scores (R), in nats.
template <class S>
double entropy_of(config const& c, S const* logits, S const* scores) {
  double entropy = 0;
  if (c.score == score::softmax && c.precision != precision::bf16) {
    // sum p log p = sum p logit - log sum exp
    double const log_sum = double(log_sum_exp(c, logits, scores));
    entropy = log_sum - dot_f64(scores, logits, c.routed);
    if (!math::isnan(entropy)) return entropy;
    entropy = log_sum;  // there was 0 times -infinity
    for (int i = 0; i < c.routed; ++i)
      if (scores[i] > 0) entropy -= double(scores[i]) * double(logits[i]);
  } else {
    S all = S(1e-20);  // softmax rounded to bf16 does not add up to 1
    for (int i = 0; i < c.routed; ++i) all += scores[i];
    for (int i = 0; i < c.routed; ++i)
      if (scores[i] > 0) entropy -= double(scores[i] / all) * math::log(double(scores[i] / all));
  }
  return entropy;
}

}  // namespace detail

/// Writes what a router did with a batch into the log's next report.
template <class S>
void report_routing(config const& c, batch const& b, routing<S> const& r,
                    router_weights<S const> const& w, balance_scratch<S> const& t,
                    routing_log& log) {
  std::int64_t const T = r.logits.rows;
  balance_losses const& loss = losses_of(c, b.routing);
  int const k = slots(c, b.routing), R = c.routed, size = R / b.routing.devices;
  routing_report& report = detail::next_report(log);
  report.load.assign(std::size_t(R), 0);
  report.dropped.assign(std::size_t(R), 0);
  report.mean_score.assign(std::size_t(R), 0.0);
  report.quantile.assign(std::size_t(R), 0.0);
  report.bias.assign(std::size_t(R), 0.0);
  for (int e = 0; c.bias && e < R; ++e)
    report.bias[std::size_t(e)] = static_cast<double>(w.bias(0, e));
  report.balance_loss = report.entropy = 0;
  std::int64_t devices = 0;
  report.tokens = T;
  report.quantiles = b.routing.quantiles;
  detail::report_choices(k, r, report);
  bool const linear = detail::reads_scores(loss);
  double const each = 1 / double(std::max<std::int64_t>(T, 1));
  std::fill_n(t.counts, R, 0.0);  // sums of weights
  for (std::int64_t row = 0; row < T; ++row) {
    devices += detail::count_slots(k, size, r, row, t.counts, report);
    S const *const s = r.scores.row(row), *const logits = r.logits.row(row);
    S const total = detail::score_sum(c, s);
    for (int i = 0; i < R; ++i)
      report.mean_score[std::size_t(i)] += double(s[i]) * (each / double(total));
    if (linear)
      report.balance_loss += detail::dot_f64(s, detail::factors_of(b, r, row), R) / double(total);
    report.entropy += detail::entropy_of(c, logits, s);
    if (loss.z > 0)
      report.balance_loss +=
          loss.z * each * math::pow(double(detail::log_sum_exp(c, logits, s)), 2);
  }
  report.entropy *= R > 1 ? each / math::log(double(R)) : 0;
  report.devices = static_cast<double>(devices) * each;
  if (loss.importance > 0)
    report.balance_loss += loss.importance * detail::squared_variation(R, t.counts);
  if (loss.load > 0 && r.training && T > 0)
    report.balance_loss += loss.load * detail::squared_variation(R, r.smooth.row(0));
  if (b.routing.quantiles) detail::report_quantiles(c, chosen(c, b.routing), r, w.bias, t, report);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
