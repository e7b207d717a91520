// training: how a network is trained, and what a step did.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "../plan/batch.hpp"
#include "../plan/schedule.hpp"
#include "adamw.hpp"
#include "biases.hpp"
#include "update.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

struct training;

/// What changes while a network is trained, as you say: a schedule of your own.
struct training_rule : own_rule {
  /// Sets what the next step is to differ in, all of it from the number of steps done alone: then a
  /// run that was stopped goes on as it would have.
  virtual void set(std::int64_t steps, adamw& optimizer, training& how) const = 0;
};

/// How a network is trained, beside the optimiser's own numbers.
struct training {
  finegrain::schedule schedule = {};  // factor of the optimiser's learning rate
  double clip = 1.0;                  // the gradient's norm is cut to this; 0: never
  routing_request routing = {};       // balance losses and more, where the batch asks for nothing
  bias_update bias = {};
  /// Gradients, those of balance losses too, are made so many times larger, and divided by it as
  /// they are used: fp16 has no numbers below 6e-8. A power of two changes nothing else; what is
  /// above 65504 makes the step one of no finite gradient. (A log's balance losses are larger too.)
  double loss_scale = 1;
  weight_rounding rounding = weight_rounding::in_products;  // where products are of bf16
  /// Weights that learn at other rates or not at all, as a trainer finds them when it is made.
  std::vector<weight_group> groups = {};
  training_rule const* rule = nullptr;  // asked before each step; not owned
  update_rule const* update = nullptr;  // an optimiser of your own; not owned

  friend bool operator==(training const&, training const&) = default;
};

/// The same losses of a loss that is `scale` times as large. Throws invalid_argument where a rule of
/// a user's own would have to be.
inline balance_losses scaled(balance_losses loss, double scale) {
  if (scale == 1) return loss;
  if (loss.rule)
    throw invalid_argument("balance rules of a user's own are not scaled: loss_scale must be 1");
  for (double* one : {&loss.expert, &loss.device, &loss.communication, &loss.sequence, &loss.z,
                      &loss.importance, &loss.load})
    *one *= scale;
  return loss;
}

/// What one step did.
struct step_report {
  double loss = 0;  // mean over targets, in nats, or over numbers, or over your loss's terms
  double balance_loss = 0;   // of all routers, coefficients included
  double gradient_norm = 0;  // before clipping
  std::int64_t tokens = 0;
};

/// Throws invalid_argument when the settings make no sense for a network with these routers.
inline void check(training const& settings, std::span<router_biases const> routers) {
  checked(settings.schedule);
  if (!(settings.bias.speed >= 0) || settings.bias.speed > 1e30)
    throw invalid_argument("the speed of selection biases must be a number of at least 0");
  bool const has_biases = std::any_of(routers.begin(), routers.end(),
                                      [](router_biases const& r) { return r.offset >= 0; });
  if ((settings.bias.speed > 0 || settings.bias.quantile) && !has_biases)
    throw invalid_argument("no router here has selection biases to move: config.bias adds them");
  if (!(settings.loss_scale > 0) || settings.loss_scale > 1e30)
    throw invalid_argument("the scale of a loss must be a number above 0");
  for (weight_group const& group : settings.groups)
    if (!(group.rate >= 0) || group.rate > 1e30 || !(group.decay >= 0) || group.decay > 1e30)
      throw invalid_argument("rate and decay of the weights \"%s\" must be numbers of at least 0",
                             group.names.c_str());
  if (!(settings.clip >= 0) || settings.clip > 1e30)
    throw invalid_argument(
        "the norm to cut gradients to must be a finite number of at least 0 (0: never)");
}

}  // namespace finegrain::inline FINEGRAIN_ABI
