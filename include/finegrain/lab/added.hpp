// added: a model that a study was given, and functions of the user's own for it. study.hpp includes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "study.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A model that was added: more can be measured of it than its loss and its experts' load, and it can
/// be trained down another loss.
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
    names.push_back(std::move(name));
    own_->measurements.push_back(std::move(f));
    return *this;
  }

  /// Trains the model down a loss of your own: make(w) returns, for the windows of each step, one
  /// such as a trainer takes (train/objective.hpp), which may refer to the tokens w.x and targets
  /// w.y. What the study measures stays the cross-entropy. A run is known by `settings`, which must
  /// say what decides the loss. On cuda these steps are not recorded. Comes before run(). Throws
  /// invalid_argument if `settings` is empty, or there is a loss already.
  template <class Make>
  added& loss(std::string const& settings, Make make) {
    if (settings.empty())
      throw invalid_argument(
          "a study knows a run by what decides its bits: your own loss must say in its settings "
          "what it holds");
    entry& model = of_.models_[model_];
    if (model.own_loss)
      throw invalid_argument("a model is trained down one loss: \"%.200s\" has one",
                             model.name.c_str());
    model.own_loss = true;
    model.settings += "loss " + settings + "\n";
    of_.name_runs(model);
    auto const shared = std::make_shared<Make>(std::move(make));  // it may hold what is not copied
    own_->step = [shared](trainer<Network>& train, windows const& w) {
      auto const loss = (*shared)(w);
      return train.step(w.batch(), loss);
    };
    return *this;
  }

 private:
  friend class study;
  added(study& of, std::shared_ptr<own_functions<Network>> own)
      : of_(of), model_(of.models_.size() - 1), own_(std::move(own)) {}
  study& of_;
  std::size_t model_;
  std::shared_ptr<own_functions<Network>> own_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
