// How every model of a study is trained and measured, and all of it as text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if !defined(__cpp_rtti)
#error "finegrain: the lab knows rules of your own by their types: compile with -frtti"
#endif

#include <cstdint>
#include <string>
#include <typeinfo>

#include "../plan/batch.hpp"
#include "../train/training.hpp"
#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What all models of a study have in common: where reports go, how many runs, steps of what size, and how
/// weights begin and learn.
struct study_settings {
  std::string out = "out/study";  // a folder for the reports
  std::string pool = {};  // one that studies may share: log.jsonl, time.jsonl, runs/; or as `out`
  /// Runs of each model. From the seed of a run follow its first weights, the order of the text, and
  /// what routers draw in training (noise, jitter, second experts by chance, exempt sequences).
  int seeds = 1;
  std::int64_t steps = 500;
  std::int64_t sequences = 16, length = 128;  // windows of a step, and tokens of a window
  int evaluations = 10;           // beside the one before the first step; part of a run's id,
  std::int64_t validation = 128;  // as are windows of each, or as many as there are
  double deviation = 0.02;        // of the weights at the start,
  bool by_inputs = false;         // over the square root of a matrix's inputs
  adamw optimizer = {};
  finegrain::training training = {};

  std::int64_t tokens() const { return sequences * length; }  // of a step
  /// Evaluations are spread evenly, from before the first step to after the last.
  bool evaluates_at(std::int64_t step) const {
    return step == 0 || step * evaluations / steps != (step - 1) * evaluations / steps;
  }
};

namespace detail {

/// Numbers with their names, a line each.
class number_lines {
 public:
  number_lines& add(char const* name, double v) {
    text_ += "\n" + (name + (" " + text::shortest(v)));
    return *this;
  }
  /// All digits: a double would round some of them.
  number_lines& add_seed(char const* name, std::uint64_t v) {
    text_ += "\n" + (name + (" " + std::to_string(v)));
    return *this;
  }
  /// A rule of the user's own, by its type and what it says that it holds. Throws invalid_argument.
  number_lines& add(char const* name, own_rule const* rule) {
    if (!rule) return *this;
    std::string const own = rule->settings();
    if (own.empty())
      throw invalid_argument(
          "a study knows a run by what decides its bits: your own %s must say in settings() "
          "what it holds",
          name);
    text_ += "\n" + (name + (" " + std::string(typeid(*rule).name()) + " " + own));
    return *this;
  }
  number_lines& add(routing_request const& r) {
    balance_losses const& b = r.balance;
    add("top_k", r.top_k).add("mask_best", r.mask_best).add("shared", r.shared);
    add("expert", b.expert).add("device", b.device).add("communication", b.communication);
    add("sequence", b.sequence).add("z", b.z).add("importance", b.importance).add("load", b.load);
    add("window", double(b.over)).add("balance rule", b.rule).add("devices", r.devices);
    add("capacity", r.capacity).add("drop", double(r.drop)).add("exempt", r.exempt);
    add("device_capacity", r.device_capacity).add("jitter", r.jitter);
    return add_seed("routing_seed", r.seed).add("routing rule", r.rule);
  }
  std::string const& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace detail

/// Everything in the settings that decides a run's bits, for a model that is trained as `t` says.
/// Throws invalid_argument where a rule of the user's own does not say what it holds.
inline std::string settings_text(study_settings const& s, training const& t) {
  detail::number_lines out;
  out.add("steps", double(s.steps)).add("sequences", double(s.sequences));
  out.add("length", double(s.length)).add("evaluations", s.evaluations);
  out.add("validation", double(s.validation)).add("deviation", s.deviation);
  out.add("by_inputs", s.by_inputs);
  out.add("lr", s.optimizer.lr).add("beta1", s.optimizer.beta1).add("beta2", s.optimizer.beta2);
  out.add("epsilon", s.optimizer.epsilon).add("weight_decay", s.optimizer.weight_decay);
  out.add("warmup", double(t.schedule.warmup)).add("schedule", double(t.schedule.steps));
  out.add("decay", double(t.schedule.decay)).add("last", t.schedule.last).add("clip", t.clip);
  out.add("stochastic", t.rounding == weight_rounding::stochastic);
  out.add("loss_scale", t.loss_scale);
  for (weight_group const& g : t.groups)
    out.add(("rate of " + g.names).c_str(), g.rate).add("its decay", g.decay);
  out.add(t.routing).add("speed", t.bias.speed).add("centre", t.bias.centre);
  out.add("quantile", t.bias.quantile).add("training rule", t.rule);
  return out.add("update rule", t.update).text();
}

/// A request to routers as text: equal texts, equal answers of a network that is not in training.
inline std::string request_text(routing_request const& r) {
  return detail::number_lines().add(r).text().substr(1);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
