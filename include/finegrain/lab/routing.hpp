// How evenly routers spread tokens over their experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "../plan/batch.hpp"
#include "number_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One layer's balance. The ideal: entropy 1, max_over_mean 1, variation 0, idle 0.
struct load_balance {
  double entropy = 1;        // of the shares, over the entropy of equal shares
  double max_over_mean = 1;  // the busiest expert's load
  double variation = 0;      // standard deviation over mean
  int idle = 0;              // experts without a token
};

/// NaN where no token was routed.
inline load_balance balance_of(std::span<double const> load) {
  double total = 0, squares = 0, entropy = 0, most = 0;
  int idle = 0;
  for (double n : load) total += n, most = std::max(most, n), idle += n == 0;
  double const count = static_cast<double>(load.size()), mean = total / count;
  if (total == 0) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    return {none, none, none, idle};
  }
  for (double n : load) {
    squares += (n - mean) * (n - mean);
    if (n > 0) entropy -= n / total * std::log(n / total);
  }
  return {load.size() > 1 ? entropy / std::log(count) : 1, most / mean,
          std::sqrt(squares / count) / mean, idle};
}

/// Tokens that each expert of each layer was sent, added up over batches.
class load_count {
 public:
  load_count() = default;
  explicit load_count(number_table layers) : layers_(std::move(layers)) {}
  void add(routing_log const& log) {
    if (layers_.size() < log.layers.size()) layers_.resize(log.layers.size());
    for (std::size_t l = 0; l < log.layers.size(); ++l) {
      auto const& load = log.layers[l].load;
      layers_[l].resize(std::max(layers_[l].size(), load.size()));
      for (std::size_t e = 0; e < load.size(); ++e) layers_[l][e] += static_cast<double>(load[e]);
    }
  }
  number_table const& layers() const { return layers_; }

 private:
  number_table layers_;
};

/// The layers' balances, averaged; the busiest expert is the busiest of all layers.
inline load_balance balance_of(number_table const& layers) {
  load_balance all{0, 0, 0, 0};
  for (auto const& load : layers) {
    load_balance const one = balance_of(std::span<double const>(load));
    all.entropy += one.entropy / static_cast<double>(layers.size());
    all.variation += one.variation / static_cast<double>(layers.size());
    all.max_over_mean = std::max(all.max_over_mean, one.max_over_mean);
    all.idle += one.idle;
  }
  return all;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
