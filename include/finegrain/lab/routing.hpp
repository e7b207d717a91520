// How evenly routers spread tokens over their experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../plan/batch.hpp"
#include "../plan/weights.hpp"
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

/// What a network's routers are called, in the order of their reports: "layer 1" where their weights are
/// layers.1's and those of no router before, or else "router 1". Both begin at 0.
inline std::vector<std::string> router_names(std::vector<weight_entry> const& entries) {
  constexpr std::string_view layers = ".layers.";
  std::vector<std::string> names;
  for (weight_entry const& w : entries) {
    std::string const path = "." + w.name;
    if (!path.ends_with(".experts.0.gate")) continue;
    std::string name;
    if (std::size_t const at = path.find(layers); at != path.npos) {
      std::size_t const number = at + layers.size();
      name = "layer " + path.substr(number, path.find('.', number) - number);
    }
    if (name.empty() || std::find(names.begin(), names.end(), name) != names.end())
      name = "router " + std::to_string(names.size());
    names.push_back(std::move(name));
  }
  return names;
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

/// Experts of a layer that a token was sent to, mean of layers, from the load by so many tokens.
inline double experts_of_token(number_table const& layers, std::int64_t tokens) {
  double sent = 0;
  for (auto const& load : layers)
    for (double n : load) sent += n;
  return sent / (static_cast<double>(layers.size()) * static_cast<double>(tokens));
}

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
