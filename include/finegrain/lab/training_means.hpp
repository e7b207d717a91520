// training_means: what training did between two evaluations of a run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../train/training.hpp"
#include "jsonl.hpp"
#include "number_table.hpp"
#include "routing.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Sums over steps, and their means. A step without a finite gradient, which changes no weight, is
/// counted as skipped and left out of the means of losses and norms; what routers did is of all steps.
class training_means {
 public:
  /// What values() are, of a network with so many routers; dropped.N is of the one that load.N is of.
  static std::vector<std::string> names(std::size_t routers) {
    std::vector<std::string> all{"training loss", "balance loss", "gradient norm", "skipped steps"};
    if (routers == 0) return all;
    all.insert(all.end(), {"training load", "dropped"});
    for (std::size_t r = 0; routers > 1 && r < routers; ++r)
      all.push_back("dropped." + std::to_string(r));
    return all;
  }

  training_means() = default;
  /// As they were when `line` was made of them.
  explicit training_means(record const& line)
      : steps_(line.number("steps")),
        skipped_(line.number("skipped")),
        loss_(line.number("loss")),
        balance_loss_(line.number("balance loss")),
        norm_(line.number("gradient norm")),
        load_(line.rows("load")),
        dropped_(line.numbers("dropped")) {}
  record line() const {
    record r;
    r.set("steps", steps_).set("skipped", skipped_).set("loss", loss_);
    r.set("balance loss", balance_loss_).set("gradient norm", norm_);
    return r.set_rows("load", load_.layers()).set("dropped", dropped_);
  }

  void add(step_report const& did, routing_log const& log) {
    ++steps_;
    if (std::isfinite(did.gradient_norm)) {
      loss_ += did.loss;
      balance_loss_ += did.balance_loss;
      norm_ += did.gradient_norm;
    } else {
      ++skipped_;
    }
    load_.add(log);
    dropped_.resize(log.layers.size());
    for (std::size_t l = 0; l < dropped_.size(); ++l)
      for (std::int64_t const slots : log.layers[l].dropped) dropped_[l] += double(slots);
  }

  double steps() const { return steps_; }
  double skipped() const { return skipped_; }
  /// In the order of names(): nats (or a loss of the user's own), coefficients included, before
  /// clipping, a count; of the busiest expert of any router over its router's mean; shares of chosen
  /// slots, of all routers and, where there are several, of each. NaN where there is none.
  std::vector<double> values() const {
    double const moved = steps_ - skipped_;
    std::vector<double> all{loss_ / moved, balance_loss_ / moved, norm_ / moved, skipped_};
    if (dropped_.empty()) return all;
    std::vector<double> shares;
    double chosen_by_all = 0, dropped_by_all = 0;
    for (std::size_t l = 0; l < dropped_.size(); ++l) {
      double chosen = 0;
      for (double const slots : load_.layers()[l]) chosen += slots;
      shares.push_back(dropped_[l] / chosen);
      chosen_by_all += chosen, dropped_by_all += dropped_[l];
    }
    all.insert(all.end(),
               {balance_of(load_.layers()).max_over_mean, dropped_by_all / chosen_by_all});
    if (shares.size() > 1) all.insert(all.end(), shares.begin(), shares.end());
    return all;
  }

 private:
  double steps_ = 0, skipped_ = 0;
  double loss_ = 0, balance_loss_ = 0, norm_ = 0;  // of steps that were not skipped
  load_count load_;
  std::vector<double> dropped_;  // slots, of each router
};

}  // namespace finegrain::inline FINEGRAIN_ABI
