// How routers' selection biases move, once a step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "../expr/cost.hpp"
#include "../plan/batch.hpp"
#include "../plan/weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How selection biases move, once a step, from the counts of all its batches. By their sign
/// [DeepSeek-V3]: an expert that was chosen less often than the mean gains `speed`, one more often
/// loses it. Or to the routers' quantiles, averaged over the step's batches that have tokens
/// [quantile balancing].
struct bias_update {
  double speed = 0;       // gamma; V3: 0.001, then 0
  bool centre = false;    // and then their mean is taken off: no choice changes
  bool quantile = false;  // in place of speed

  friend bool operator==(bias_update const&, bias_update const&) = default;
};

/// Where a router's selection biases are among the weights; -1: it has none.
struct router_biases {
  std::int64_t offset = -1;
  int experts = 0;
};

/// The routers of a network of expression E, in the order of its passes.
template <class E>
std::vector<router_biases> routers_of(std::vector<weight_entry> const& entries) {
  std::vector<router_biases> all;
  std::size_t at = 0;
  detail::leaves<E>::visit([&]<Expr L>(L) {
    if constexpr (detail::is_router<L>) {
      all.push_back({-1, L::layer.routed});
      if constexpr (L::layer.bias) {
        while (entries[at].role != role::selection_bias) ++at;
        all.back().offset = entries[at++].offset;
      }
    }
  });
  return all;
}

/// Adds a batch's counts to a step's, or begins with them. They are whole numbers: any order, any
/// size, the same.
inline void add_counts(routing_log const& batch, routing_log& step, bool begin) {
  for (std::size_t l = 0; l < step.layers.size(); ++l) {
    routing_report& sum = step.layers[l];
    routing_report const& one = batch.layers[l];
    if (begin) sum.tokens = 0;
    sum.tokens += one.tokens;
    sum.quantiles = one.quantiles && (begin || sum.quantiles);
    for (std::size_t e = 0; e < sum.load.size(); ++e) {
      if (begin) sum.load[e] = 0, sum.quantile[e] = 0;
      sum.load[e] += one.load[e];
      sum.quantile[e] += one.quantile[e];
    }
  }
}

/// Moves a router's biases by what its experts got in a step of so many batches with tokens.
/// Throws invalid_argument, and moves none, where these are others' or quantiles are missing.
template <class N>
void move_bias(std::span<N> bias, routing_report const& did, std::int64_t batches,
               bias_update const& how) {
  std::int64_t const all = std::accumulate(did.load.begin(), did.load.end(), std::int64_t{0});
  auto const R = static_cast<std::int64_t>(bias.size());
  if (did.load.size() != bias.size())
    throw invalid_argument("%zu selection biases cannot follow a report of %zu experts",
                           bias.size(), did.load.size());
  if (how.quantile && all > 0 && !did.quantiles)
    throw invalid_argument(
        "biases cannot move to quantiles of a report that has none: set the batch's "
        ".routing.quantiles");
  N mean = 0;
  for (std::size_t e = 0; e < bias.size(); ++e) {
    std::int64_t const excess = did.load[e] * R - all;
    if (how.quantile && all > 0)
      bias[e] = static_cast<N>(did.quantile[e] / static_cast<double>(batches));
    else if (!how.quantile)
      bias[e] -= static_cast<N>(how.speed) * static_cast<N>((excess > 0) - (excess < 0));
    mean += bias[e] / static_cast<N>(R);
  }
  for (N& b : bias)
    if (how.centre) b -= mean;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
