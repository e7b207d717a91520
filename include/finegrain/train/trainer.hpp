// trainer: steps a network down a loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../io/checkpoint.hpp"
#include "../model/network.hpp"
#include "adamw.hpp"
#include "loss.hpp"
#include "schedule.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How a network is trained, beside the optimiser's own numbers.
struct training {
  finegrain::schedule schedule = {};  // factor of the optimiser's learning rate
  double clip = 1.0;                  // the gradient's norm is cut to this; 0: never
  double balance = 0;  // alpha of the expert-level balance loss, where the batch has none
};

/// What one step did.
struct step_report {
  double loss = 0;           // mean over targets, in nats; of squared error, mean over numbers
  double balance_loss = 0;   // of all routers, alpha included
  double gradient_norm = 0;  // before clipping
  std::int64_t tokens = 0;
};

/// Trains a network, which it refers to and does not own.
///
///   trainer train{net, adamw{.lr = 3e-4}};
///   for (auto const& [x, y] : batches) train.step(x, y);
///
/// Targets are token ids for a cross-entropy (below 0: left out), or numbers for the mean squared
/// error. A step that throws leaves weights and moments as they were. A step whose gradient is not
/// finite is counted and changes nothing else; its report shows the norm.
template <class Network>
class trainer {
 public:
  using S = typename Network::S;
  using executor = typename Network::executor;
  static constexpr int in = Network::in, out = Network::out;
  /// Token ids for a network that begins with an embedding; else numbers (T, in).
  using input = std::conditional_t<in == ids, id_list, matrix<S const>>;

  /// Throws invalid_argument when the settings make no sense, std::bad_alloc.
  explicit trainer(Network& net, adamw optimizer = {}, training settings = {})
      : net_(net),
        optimizer_(optimizer),
        settings_(settings),
        log_(Network::make_log()),
        ranges_(trained_ranges(net.entries())),
        partial_(ranges_.size()),
        moments_(2 * static_cast<std::int64_t>(net.parameters().size())) {
    static_cast<void>(checked(optimizer_));
    static_cast<void>(checked(settings_.schedule));
    std::fill(moments_.begin(), moments_.end(), S(0));
  }

  /// One step on one sequence.
  step_report step(input x, id_list targets) { return step(batch_of(x), numbers(x), targets); }
  step_report step(input x, matrix<S const> targets) {
    return step(batch_of(x), numbers(x), targets);
  }
  /// One step on several sequences: batch.ids, batch.starts. A log in the batch is filled in place
  /// of the trainer's own.
  step_report step(batch b, id_list targets) requires(in == ids) { return step(b, {}, targets); }
  step_report step(batch b, matrix<S const> x, id_list targets) {
    return step_on(b, x, cross_entropy_loss(b, targets));
  }
  step_report step(batch b, matrix<S const> x, matrix<S const> targets) {
    return step_on(b, x, squared_error_loss(b, targets));
  }

  /// The loss without training, as the network stands.
  double evaluate(input x, id_list targets) { return evaluate(batch_of(x), numbers(x), targets); }
  double evaluate(input x, matrix<S const> targets) {
    return evaluate(batch_of(x), numbers(x), targets);
  }
  double evaluate(batch b, id_list targets) requires(in == ids) { return evaluate(b, {}, targets); }
  double evaluate(batch b, matrix<S const> x, id_list targets) {
    return evaluate_on(b, x, cross_entropy_loss(b, targets));
  }
  double evaluate(batch b, matrix<S const> x, matrix<S const> targets) {
    return evaluate_on(b, x, squared_error_loss(b, targets));
  }

  /// Makes room for batches of up to so many tokens; no step within it allocates.
  void reserve(std::int64_t tokens) { net_.reserve_learning(tokens); }

  /// Writes weights, moments and steps, atomically: a trainer that loads them goes on with the same
  /// bits. Throws file_error; a file that was there is then still there.
  void save(std::string const& path) const {
    save_checkpoint(net_, {first(), second(), steps_}, path);
  }
  /// Throws file_error, or mismatch if the file is another architecture's: then nothing changes.
  void load(std::string const& path) {
    steps_ = load_checkpoint(net_, {first(), second(), steps_}, path);
  }

  /// What the routers did in the last step.
  routing_log const& log() const { return log_; }
  /// Steps done, and with load() those of the run that is resumed.
  std::int64_t steps() const { return steps_; }
  Network& network() const { return net_; }
  adamw& optimizer() { return optimizer_; }
  training& settings() { return settings_; }

 private:
  static batch batch_of(input x) {
    if constexpr (in == ids)
      return {.tokens = static_cast<std::int64_t>(x.size()), .ids = x};
    else
      return {.tokens = x.rows};
  }
  static matrix<S const> numbers([[maybe_unused]] input x) {
    if constexpr (in == ids)
      return {};
    else
      return x;
  }

  // A loss: how many terms it has, the sum of some tokens', and the gradient of all terms' mean.
  static auto cross_entropy_loss(batch const& b, id_list targets) {
    struct loss {
      id_list targets;
      double terms;
      double operator()(executor const& on, std::int64_t first, matrix<S const> y,
                        matrix<S> dy) const {
        auto const mine =
            targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(y.rows));
        return cross_entropy(on, y, mine, 1 / terms, dy);
      }
    };
    return loss{targets, at_least_one(count_targets(targets, b.tokens, out))};
  }
  static auto squared_error_loss(batch const& b, matrix<S const> targets) {
    struct loss {
      matrix<S const> targets;
      double terms;
      double operator()(executor const& on, std::int64_t first, matrix<S const> y,
                        matrix<S> dy) const {
        return squared_error(on, y, targets.middle_rows(first, y.rows), 1 / terms, dy);
      }
    };
    detail::check_shape("the matrix of targets", targets, b.tokens, out);
    return loss{targets, at_least_one(targets.size())};
  }
  static double at_least_one(std::int64_t terms) {
    return static_cast<double>(std::max<std::int64_t>(terms, 1));
  }

  std::span<S> first() const { return {moments_.data(), net_.parameters().size()}; }
  std::span<S> second() const { return {first().data() + first().size(), first().size()}; }

  template <class L>
  step_report step_on(batch b, matrix<S const> x, L const& loss) {
    if (!b.log) b.log = &log_;
    if (b.routing.balance == 0) b.routing.balance = settings_.balance;
    double const total = net_.learn(b, x, loss);
    return {.loss = total / loss.terms,
            .balance_loss = b.log->balance_loss(),
            .gradient_norm = update(),
            .tokens = b.tokens};
  }

  /// Moves the weights, and returns the gradient's norm.
  double update() {
    parallel const threads = net_.on().threads;
    S const* const g = net_.gradient().data();
    double const norm = gradient_norm(threads, ranges_, g, partial_.data());
    double const rate = optimizer_.lr * settings_.schedule.at(steps_);
    ++steps_;
    if (!std::isfinite(norm)) return norm;
    double const scale = settings_.clip > 0 && norm > settings_.clip ? settings_.clip / norm : 1;
    adamw_update(threads, optimizer_, rate, steps_, scale, ranges_, g, net_.parameters().data(),
                 first().data(), second().data());
    return norm;
  }

  template <class L>
  double evaluate_on(batch b, matrix<S const> x, L const& loss) {
    return net_.score(b, x, loss) / loss.terms;
  }

  Network& net_;
  adamw optimizer_;
  training settings_;
  routing_log log_;
  std::vector<trained_range> ranges_;
  std::vector<double> partial_;
  buffer<S> moments_;  // of the gradient, first and second, each laid out as the weights
  std::int64_t steps_ = 0;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
