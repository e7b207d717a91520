// learner: a network in training, whatever its type, so that what works with it is compiled once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../model/generate.hpp"
#include "../train/trainer.hpp"
#include "corpus.hpp"
#include "number_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A network and its trainer, as a study sees them. Errors are those of `trainer` and `generate`.
struct learner {
  virtual ~learner() = default;
  virtual std::int64_t steps() const = 0;
  virtual step_report step(windows const& w) = 0;
  /// Mean cross-entropy in nats, without training, under a request to the routers; log() then tells
  /// where tokens went.
  virtual double evaluate(windows const& w, routing_request const& how = {}) = 0;
  /// What routers did in the last step, whatever passes a function of the user's own made after it.
  virtual routing_log const& step_log() const = 0;
  virtual void save(std::string const& path, std::string const& note = {}) = 0;
  virtual void load(std::string const& path) = 0;
  /// Numbers that a function of the user's own may have changed, beside the weights: a run that goes
  /// on takes those that it had. None where there is no such function.
  virtual std::vector<double> adapted() = 0;
  /// False: these are not such numbers, and nothing changes.
  virtual bool adapt(std::vector<double> const& numbers) = 0;
  /// Appends so many bytes to a text, having seen its last `context` bytes.
  virtual void write(std::string& text, std::int64_t context, std::int64_t bytes,
                     sampling const& how) const = 0;
  /// The rows of each router, in the order of the forward pass: [layer][expert][hidden]; of those
  /// that are a matrix, weights called .router.
  virtual std::vector<number_table> routers() const = 0;
  /// Numbers of the user's own, in the order that they were asked for.
  virtual std::vector<double> measured() = 0;

  routing_log const& log() const { return log_; }

 protected:
  routing_log log_;
};

namespace detail {

/// The numbers of an optimiser and of settings that are real, but those of groups, which a trainer
/// keeps as it found them: a controller may change them.
inline std::vector<double*> real_numbers(adamw& optimizer, training& how) {
  routing_request& r = how.routing;
  balance_losses& b = r.balance;
  return {&optimizer.lr,
          &optimizer.beta1,
          &optimizer.beta2,
          &optimizer.epsilon,
          &optimizer.weight_decay,
          &how.schedule.last,
          &how.clip,
          &how.loss_scale,
          &how.bias.speed,
          &b.expert,
          &b.device,
          &b.communication,
          &b.sequence,
          &b.z,
          &b.importance,
          &b.load,
          &r.capacity,
          &r.device_capacity,
          &r.exempt,
          &r.jitter};
}

/// How a trainer steps: on the host, as it is told.
template <class Network, bool Here>
struct stepper {
  static step_report step(trainer<Network>& train, windows const& w) {
    return train.step(w.batch(), w.y);
  }
};
/// On a device the step is recorded, since models of a study are so small that the host's part of it
/// is most of it; again when windows of another size come, or an evaluation has moved memory.
template <class Network>
class stepper<Network, false> {
 public:
  step_report step(trainer<Network>& train, windows const& w) {
    if (train.settings().bias.quantile || train.settings().rule) return train.step(w.batch(), w.y);
    auto const T = static_cast<std::int64_t>(w.x.size());
    auto const borders = static_cast<std::int64_t>(w.starts.size());
    if (!recorded_ || !recorded_->stands() || x_.size() != T || starts_.size() != borders) {
      recorded_.reset();
      x_ = device_buffer<std::int32_t>(T), y_ = device_buffer<std::int32_t>(T);
      starts_ = device_buffer<std::int64_t>(borders);
      recorded_.emplace(train.record({.tokens = T, .ids = x_, .starts = starts_}, y_));
    }
    auto const copy = [&](auto const& to, auto const& from) {
      device::runtime::enqueue_copy(to.data(), from.data(), to.bytes(),
                                    train.network().on().stream);
    };
    copy(x_, w.x), copy(y_, w.y), copy(starts_, w.starts);
    (*recorded_)();
    return train.report();
  }

 private:
  device_buffer<std::int32_t> x_, y_;
  device_buffer<std::int64_t> starts_;
  std::optional<typename trainer<Network>::recorded> recorded_;
};

}  // namespace detail

/// What a user's own functions do with a network while it learns.
template <class Network>
struct own_functions {
  /// What becomes of the first weights of the run with this seed.
  std::function<void(Network&, std::uint64_t seed)> start;
  /// What is to be measured, beside the loss. It leaves the weights as they are.
  std::vector<std::function<double(Network&)>> measurements;
  /// A step down a loss; none: down the cross-entropy.
  std::function<step_report(trainer<Network>&, windows const&)> step;
  /// What is done after each step.
  std::function<void(trainer<Network>&, step_report const&)> after_step;
};

/// A network that reads token ids and makes logits over them, and its trainer.
template <class Network>
class learner_of final : public learner {
 public:
  static_assert(Network::in == ids, "learner_of: the network must read token ids");

  learner_of(initialisation start, typename Network::executor on, adamw optimizer,
             training settings, std::shared_ptr<own_functions<Network> const> own = {})
      : net_(start, std::move(on)), train_(net_, optimizer, settings), own_(std::move(own)) {
    log_ = Network::make_log();
    if (own_ && own_->start) own_->start(net_, start.seed);
  }

  /// Throws invalid_argument where such a network cannot be trained so: before hours of others are.
  static void check(adamw optimizer, training how) {
    using E = typename Network::expression;
    if (how.rule) how.rule->set(0, optimizer, how);
    checked(optimizer);
    auto const entries = list_weights<E>();
    finegrain::check(how, routers_of<E>(entries));
    static_cast<void>(trained_ranges(entries, how.groups));
    finegrain::detail::check_routing<typename Network::executor>(
        finegrain::detail::router_configs<E>::list, {.routing = how.routing}, true);
  }

  std::int64_t steps() const override { return train_.steps(); }
  step_report step(windows const& w) override {
    if (!own_ || !(own_->step || own_->after_step)) return stepper_.step(train_, w);
    step_report const did = own_->step ? own_->step(train_, w) : train_.step(w.batch(), w.y);
    if (controlled()) {
      step_log_ = train_.log();
      after_step(did);
    }
    return did;
  }
  double evaluate(windows const& w, routing_request const& how = {}) override {
    batch b = w.batch();
    b.routing = how;
    b.log = &log_;
    return train_.evaluate(b, w.y);
  }
  routing_log const& step_log() const override { return controlled() ? step_log_ : train_.log(); }
  void save(std::string const& path, std::string const& note = {}) override {
    train_.save(path, note);
  }
  void load(std::string const& path) override { train_.load(path); }
  std::vector<double> adapted() override {
    std::vector<double> all;
    for (double const* number : numbers()) all.push_back(*number);
    return all;
  }
  bool adapt(std::vector<double> const& to) override {
    auto const all = numbers();
    if (all.size() != to.size()) return false;
    for (std::size_t i = 0; i < all.size(); ++i) *all[i] = to[i];
    return true;
  }
  void write(std::string& text, std::int64_t context, std::int64_t bytes,
             sampling const& how) const override {
    std::vector<std::int32_t> seen;
    for (std::size_t at = text.size() - std::min(text.size(), static_cast<std::size_t>(context));
         at < text.size(); ++at)
      seen.push_back(static_cast<unsigned char>(text[at]));
    generate(net_, seen, bytes, how, [&](std::int32_t id) { text += static_cast<char>(id); });
  }
  std::vector<number_table> routers() const override {
    std::vector<number_table> all;
    for (weight_entry const& e : net_.entries()) {
      if (!e.name.ends_with(".router")) continue;
      all.emplace_back();
      std::vector<typename place<typename Network::executor>::sum> memory;
      auto const* row = place<typename Network::executor>::seen(
          net_.on(), memory, net_.parameters().data() + e.offset, e.rows * e.cols);
      for (std::int64_t r = 0; r < e.rows; ++r, row += e.cols)
        all.back().emplace_back(row, row + e.cols);
    }
    return all;
  }
  std::vector<double> measured() override {
    std::vector<double> all;
    if (own_)
      for (auto const& one : own_->measurements) all.push_back(one(net_));
    return all;
  }

 private:
  bool controlled() const { return own_ && own_->after_step; }
  /// Those that a function of the user's own may change.
  std::vector<double*> numbers() {
    if (!controlled()) return {};
    return detail::real_numbers(train_.optimizer(), train_.settings());
  }
  /// What a checkpoint does not keep must stay as it is.
  void after_step(step_report const& did) {
    std::int64_t const steps = train_.steps();
    training kept = train_.settings();
    own_->after_step(train_, did);
    adamw unused;
    auto const were = detail::real_numbers(unused, kept), are = numbers();
    for (std::size_t i = 0; i < are.size(); ++i) *were[i] = *are[i];
    if (train_.steps() != steps || !(train_.settings() == kept))
      throw invalid_argument(
          "your own function after a step may change weights and the real numbers of the optimiser "
          "and the settings but those of groups, and makes no step: a run that is resumed knows of "
          "nothing else");
  }

  Network net_;
  trainer<Network> train_;
  std::shared_ptr<own_functions<Network> const> own_;
  routing_log step_log_;
  detail::stepper<Network, place<typename Network::executor>::here> stepper_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
