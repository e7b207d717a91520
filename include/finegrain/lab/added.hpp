// added: a model that a study was given, and functions of the user's own for it. study.hpp includes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "study.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A model that was added: more can be measured of it than its loss and its experts' load, and it can
/// start otherwise, be trained down another loss, and be controlled after each step.
template <class Network>
class study::added {
 public:
  /// Measures f(network) at each evaluation too. What it reads is its own affair; weights it leaves
  /// as they are. Of runs that are done it knows nothing. Throws invalid_argument.
  added& measure(std::string name, std::function<double(Network&)> f) {
    auto& names = of_.models_[model_].measured;
    if (name.empty() || std::find(names.begin(), names.end(), name) != names.end())
      throw invalid_argument(
          "a model has one measurement of each name, which is not empty: \"%.200s\" cannot be "
          "added",
          name.c_str());
    given("measurement", bool(f));
    names.push_back(std::move(name));
    own_->measurements.push_back(std::move(f));
    return *this;
  }

  /// Trains the model down a loss of your own: make(w) returns, for the windows of each step, one
  /// such as a trainer takes (train/objective.hpp), which may refer to the tokens w.x and targets
  /// w.y. What the study measures stays the cross-entropy. On cuda these steps are not recorded.
  ///
  /// A run is known by `settings`, which must say what decides what your function does, and so it is
  /// of those below. They come before run(). Each throws invalid_argument if `settings` is empty or more
  /// than a line, the function is empty, or the model has such a function already.
  template <class Make>
  added& loss(std::string const& settings, Make make) {
    know("loss", settings);
    auto const shared = std::make_shared<Make>(std::move(make));  // it may hold what is not copied
    own_->step = [shared](trainer<Network>& train, windows const& w) {
      auto const loss = (*shared)(w);
      return train.step(w.batch(), loss);
    };
    return *this;
  }

  /// Changes the weights that a run starts from: f(network, seed), after their initialisation by the
  /// run's seed, whose evaluation before the first step sees it. It does the same each time: a run
  /// that is resumed calls it too, before it loads its checkpoint.
  added& start(std::string const& settings, std::function<void(Network&, std::uint64_t)> f) {
    given("start", bool(f));
    know("start", settings);
    own_->start = std::move(f);
    return *this;
  }

  /// Calls f(trainer, report) after each step: a controller, from the report and trainer.log(). It
  /// may change weights, and real numbers of trainer.optimizer() and trainer.settings(), such as a
  /// learning rate or the coefficient of a loss, but those of groups. These are what a run that is
  /// stopped goes on with; what f itself holds is not. Anything else that it changes there is an error
  /// as it does. A pass that it makes is no part of what training measures. On cuda these steps are not
  /// recorded.
  added& after_step(std::string const& settings,
                    std::function<void(trainer<Network>&, step_report const&)> f) {
    given("function after a step", bool(f));
    know("function after a step", settings);
    own_->after_step = std::move(f);
    return *this;
  }

 private:
  friend class study;
  added(study& of, std::shared_ptr<own_functions<Network>> own)
      : of_(of), model_(of.models_.size() - 1), own_(std::move(own)) {}

  void given(char const* what, bool f) const {
    if (!f)
      throw invalid_argument("the model \"%.200s\": your own %s is an empty function",
                             of_.models_[model_].name.c_str(), what);
  }
  /// Makes what a function of the user's own holds a part of the runs' ids, in whichever order they
  /// were given.
  void know(char const* what, std::string const& settings) {
    trainable_model& model = of_.models_[model_];
    if (settings.empty())
      throw invalid_argument(
          "the model \"%.200s\": your own %s must say in its settings what it holds, since a study "
          "knows a run by what decides its bits",
          model.name.c_str(), what);
    if (settings.find('\n') != settings.npos)
      throw invalid_argument("the model \"%.200s\": the settings of your own %s are one line",
                             model.name.c_str(), what);
    if (!model.own.emplace(what, settings).second)
      throw invalid_argument("the model \"%.200s\" has its own %s already", model.name.c_str(),
                             what);
    model.name_runs();
  }

  study& of_;
  std::size_t model_;
  std::shared_ptr<own_functions<Network>> own_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
