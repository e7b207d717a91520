// trainer: steps a network down a loss.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../io/checkpoint.hpp"
#include "../model/network.hpp"
#include "device_optimizer.hpp"
#include "objective.hpp"
#include "optimizer.hpp"
#include "training.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Trains a network, which it refers to and does not own.
///
///   trainer train{net, adamw{.lr = 3e-4}};
///   for (auto const& [x, y] : batches) train.step(x, y);
///
/// Targets are token ids for a cross-entropy (below 0: left out), numbers for the mean squared
/// error, or a loss of your own in their place (train/objective.hpp). A batch of which all are left
/// out costs 0 and gives no gradient, where PyTorch's mean is not a number: padding alone spoils
/// no run. It is a step, though: decay and moments move the weights. A step that throws leaves
/// weights and moments as they were. A step whose gradient is not finite is counted and changes
/// nothing else; its report shows the norm.
///
/// step() waits for its report. enqueue() does not, on an executor that works beside the host, and
/// report() then waits for the last step. On cuda a step can be recorded and replayed, which spares
/// the host's work: its lists are in memory of the device, where the next batch is copied to.
///
///   auto step = train.record({.tokens = 4096, .ids = ids, .starts = starts}, targets);
///   for (...) { /* fill ids, starts, targets */ step(); if (...) show(train.report()); }
template <class Network>
class trainer {
 public:
  static_assert(
      requires(Network & net) { net.gradient(); },
      "trainer: a network of weights that learn is needed; a frozen one has none");
  using S = typename Network::S;
  using executor = typename Network::executor;
  using E = typename Network::expression;
  using N = typename finegrain::optimizer<executor>::N;  // scalar of the weights that learn
  static constexpr int in = Network::in, out = Network::out;
  using input = typename Network::input;

  /// Throws invalid_argument when the settings make no sense, std::bad_alloc.
  explicit trainer(Network& net, adamw optimizer = {}, training settings = {})
      : net_(net),
        optimizer_(optimizer),
        settings_(settings),
        log_(Network::make_log()),
        groups_(settings_.groups),
        routers_(routers_of<E>(net.entries())),
        counts_(Network::make_log()),
        state_(net.on(), net.entries(), groups_, routers_, net.parameters()) {
    checked(optimizer_);
    check(settings_, routers_);
    state_.prepare(net.on(), settings_.rounding, settings_.update);
  }
  template <std::same_as<training> Settings>  // braces alone are an optimiser's numbers
  explicit trainer(Network& net, Settings settings) : trainer(net, {}, std::move(settings)) {}
  trainer(trainer const&) = delete;  // it stays where it is: its last step's log may be its own

  /// One step on one sequence.
  step_report step(input x, objective<executor> const& loss) {
    return step(x.batch(), x.numbers(), loss);
  }
  /// One step on several sequences: batch.ids, batch.starts. A log in the batch is filled in place
  /// of the trainer's own.
  step_report step(batch b, objective<executor> const& loss) { return step(b, no_numbers(), loss); }
  step_report step(batch b, matrix<S const> x, objective<executor> const& loss) {
    enqueue(b, x, loss);
    return report();
  }

  /// A step that nobody waits for, unless biases move by quantiles. A batch's log is filled in by
  /// report(), and must be there until then.
  void enqueue(input x, objective<executor> const& loss) { enqueue(x.batch(), x.numbers(), loss); }
  void enqueue(batch b, objective<executor> const& loss) { enqueue(b, no_numbers(), loss); }
  void enqueue(batch b, matrix<S const> x, objective<executor> const& loss) {
    net_.check_idle();
    ask_rule(steps_);
    batch_loss<executor> const made = over(b, loss);
    gathered_ = 0;
    begin(b, x, made);
    if (place<executor>::here || settings_.bias.quantile) count();
    ++gathered_;
    update();
  }
  /// What the last step did. Waits for it, and fills in log(), unless a pass with another log came
  /// between.
  step_report report() {
    if (!last_.log) throw invalid_argument("there is no step to report yet");
    place<executor>::read_log(net_.on(), *last_.log, last_.tokens);
    optimizer_figures const did = state_.figures(net_.on());
    double const terms = last_.counted ? terms_of_mean(did.terms) : last_.terms;
    return {.loss = (last_.made + did.loss) / terms,
            .balance_loss = last_.log->balance_loss() / last_.loss_scale,
            .gradient_norm = did.norm,
            .tokens = last_.tokens};
  }

  class recorded;
  /// Records a step, which is run each time that the result is called: with what the batch's lists,
  /// x and targets, all in memory of the device, then hold, and with the step's own learning rate.
  /// The optimiser's numbers and the settings are those of now. A later pass with more tokens moves
  /// the memory that it runs in, and then it must be recorded again. Throws invalid_argument where
  /// the host would have to take part.
  recorded record(batch b, objective<executor> const& loss) requires(!place<executor>::here) {
    return record(b, no_numbers(), loss);
  }
  recorded record(batch b, matrix<S const> x,
                  objective<executor> const& loss) requires(!place<executor>::here) {
    return record_on(b, x, loss);
  }

  /// Several batches of one step: gather each, then finish. Gradients are averaged; losses over the
  /// batch count the choices of the step's earlier ones too; biases move by the counts of all. A
  /// step() in between, or a load(), forgets what was gathered, and so does a pass that throws in
  /// its loss or after it.
  step_report gather(input x, objective<executor> const& loss) {
    return gather(x.batch(), x.numbers(), loss);
  }
  step_report gather(batch b, objective<executor> const& loss) {
    return gather(b, no_numbers(), loss);
  }
  step_report gather(batch b, matrix<S const> x, objective<executor> const& loss) {
    net_.check_idle();
    ask_rule(steps_);
    batch_loss<executor> const made = over(b, loss);
    begin(b, x, made);
    count();
    ++gathered_;
    return {.loss = place<executor>::total(net_.on(), last_.made) / made.terms_on(net_.on()),
            .balance_loss = last_.log->balance_loss() / settings_.loss_scale,
            .gradient_norm = 0,
            .tokens = b.tokens};
  }
  /// Moves weights and biases; returns the gradient's norm. Throws invalid_argument when nothing
  /// was gathered, or the settings make no sense: what was gathered then stays.
  double finish() {
    net_.check_idle();
    if (gathered_ == 0) throw invalid_argument("a step needs a batch before it is finished");
    prepare();
    update();
    return state_.figures(net_.on()).norm;
  }

  /// The loss without training, as the network stands: of as many experts a token as in training, none
  /// dropped.
  double evaluate(input x, objective<executor> const& loss) {
    return evaluate(x.batch(), x.numbers(), loss);
  }
  double evaluate(batch b, objective<executor> const& loss) {
    return evaluate(b, no_numbers(), loss);
  }
  double evaluate(batch b, matrix<S const> x, objective<executor> const& loss) {
    net_.check_idle();
    batch_loss<executor> const made = over(b, loss);
    routing_request const& how = settings_.routing;  // of which an evaluation drops nothing
    if (b.routing == routing_request{})
      b.routing = {.top_k = how.top_k, .mask_best = how.mask_best, .shared = how.shared};
    if (!b.routing.rule) b.routing.rule = how.rule;
    double const total = net_.score(b, x, made);
    return total / made.terms_on(net_.on());
  }

  /// Makes room for batches of up to so many tokens; no step within it allocates, but the first of a
  /// loss of your own.
  void reserve(std::int64_t tokens) {
    reserved_ = std::max(reserved_, tokens);
    net_.reserve_learning(tokens);
    if constexpr (!place<executor>::here)
      if (targets_.size() < tokens) targets_ = decltype(targets_)(tokens);
    place<executor>::reserve_log(net_.on(), log_);
  }

  /// Writes weights, moments and steps, atomically: a trainer that loads them goes on with the same
  /// bits. A note goes into the file's metadata. Throws file_error; a file that was there is then still
  /// there.
  void save(std::string const& path, std::string const& note = {}) {
    follow();
    auto const all = state_.read(net_.on(), net_.parameters());
    save_checkpoint<E, N>(net_.entries(), all.weights, {all.first, all.second, steps_}, path, note);
  }
  /// Throws file_error, or mismatch if the file is another architecture's: then nothing changes. A
  /// rule in the settings is asked for what it had set when the file was saved, since evaluations and
  /// the rounding of weights go by that.
  void load(std::string const& path) {
    net_.check_idle();
    auto const all = state_.read(net_.on(), net_.parameters());
    steps_ =
        load_checkpoint<E, N>(net_.entries(), all.weights, {all.first, all.second, steps_}, path);
    if (steps_ > 0) ask_rule(steps_ - 1);
    state_.prepare(net_.on(), settings_.rounding, settings_.update);  // weights are rounded so
    state_.begin_at(net_.on(), steps_);
    state_.write(net_.on(), all, net_.parameters());
    gathered_ = 0;
  }

  /// What the routers did in the last step that was reported.
  routing_log const& log() const { return log_; }
  /// Steps done, and with load() those of the run that is resumed.
  std::int64_t steps() const { return steps_; }
  Network& network() const { return net_; }
  adamw& optimizer() { return optimizer_; }
  training& settings() { return settings_; }

 private:
  /// What a network reads beside a batch whose token ids are all of it.
  static matrix<S const> no_numbers() {
    static_assert(in == ids,
                  "trainer: this network reads numbers, which stand between batch and targets; a "
                  "batch alone is for one that begins with an embedding");
    return {};
  }

  /// For the step after so many.
  void ask_rule(std::int64_t steps) {
    if (settings_.rule) settings_.rule->set(steps, optimizer_, settings_);
  }

  batch_loss<executor> over(batch const& b, objective<executor> const& loss) {
    return loss.over(net_.on(), b.tokens, out, settings_.loss_scale, targets_);
  }
  /// Room for the gradient of a loss of the user's own.
  void reserve_loss(std::int64_t tokens) {
    std::int64_t const numbers = scored<executor, E>::rows(std::max(tokens, reserved_)) * out;
    if (own_loss_.size() < numbers) own_loss_ = decltype(own_loss_)(numbers);
  }

  /// For a pass, or an update, by the optimiser's numbers and the settings as they now are.
  void prepare() {
    checked(optimizer_);
    check(settings_, routers_);
    if (settings_.groups != groups_)
      throw invalid_argument("groups of weights are set when a trainer is made, and then stay");
    state_.prepare(net_.on(), settings_.rounding, settings_.update);
  }
  /// Enqueues a batch's pass, whose gradients join those of the step's earlier ones.
  void begin(batch b, matrix<S const> x, batch_loss<executor> loss) {
    prepare();
    if (!b.log) b.log = &log_;
    if (b.routing == routing_request{}) b.routing = settings_.routing;
    b.routing.seed = seed_of(b.routing);
    if constexpr (!place<executor>::here)
      b.routing.step = gathered_ == 0 ? state_.steps() : nullptr;
    b.routing.quantiles |= settings_.bias.quantile;
    b.routing.balance = scaled(b.routing.balance, settings_.loss_scale);
    if (gathered_ > 0) b.routing.earlier = &counts_;
    auto const mode = gathered_ > 0 ? gradients::accumulate : gradients::overwrite;
    if (loss.of.own()) {
      reserve_loss(b.tokens);
      loss.room = own_loss_.data();
    }
    last_ = {.made = learn(b, x, loss, mode),
             .terms = loss.terms,
             .counted = loss.counted,
             .loss_scale = settings_.loss_scale,
             .tokens = b.tokens,
             .log = b.log};
    if constexpr (!place<executor>::here)
      if (settings_.bias.speed > 0) state_.count_choices(net_.on(), mode);
  }

  /// The pass, with the optimiser's copy of the weights if there is one.
  double learn(batch const& b, matrix<S const> x, batch_loss<executor> const& loss,
               gradients mode) {
    follow();
    [[maybe_unused]] auto const lent = state_.lend(net_.on(), std::as_const(net_).parameters());
    try {
      return net_.enqueue_learn(b, x, loss, {}, mode);
    } catch (...) {
      if (loss.asked) gathered_ = 0;  // some gradients may be sums with this batch's by now
      throw;
    }
  }
  /// What the optimiser has beside the network's weights becomes what others have written since.
  void follow() {
    bool const changed = net_.writer() != writer_;
    state_.follow(net_.on(), net_.parameters(), settings_.rounding, changed);
    writer_ = net_.writer();
  }

  /// The seed of a step's batch; where the executor counts steps itself, it mixes those of a step's
  /// first batch.
  std::uint64_t seed_of(routing_request const& asked) const {
    if (!place<executor>::here && gathered_ == 0) return asked.seed;
    return random_word(random_word(asked.seed, static_cast<std::uint64_t>(steps_)),
                       static_cast<std::uint64_t>(gathered_));
  }

  /// Adds the last batch's counts to the step's.
  void count() {
    place<executor>::read_log(net_.on(), *last_.log, last_.tokens);
    add_counts(*last_.log, counts_, gathered_ == 0);
    filled_ = (gathered_ == 0 ? 0 : filled_) + (last_.tokens > 0);
  }

  /// Moves the routers' selection biases.
  void move_biases() {
    bias_update const& how = settings_.bias;
    if (how.speed == 0 && !how.quantile) return;
    if constexpr (!place<executor>::here)
      if (!how.quantile)
        return state_.move_biases(net_.on(), how.speed, how.centre, net_.parameters());
    if (!std::isfinite(state_.figures(net_.on()).norm)) return;
    for (std::size_t router = 0; router < routers_.size(); ++router)
      if (auto const& biases = routers_[router]; biases.offset >= 0)
        state_.change(net_.on(), net_.parameters(), biases.offset, biases.experts, [&](N* bias) {
          move_bias(std::span<N>(bias, std::size_t(biases.experts)), counts_.layers[router],
                    filled_, how);
        });
  }

  /// Moves the weights and the biases.
  void update() {
    follow();
    state_.step(net_.on(), optimizer_,
                {.schedule = settings_.schedule,
                 .clip = settings_.clip,
                 .gathered = static_cast<double>(gathered_) * settings_.loss_scale,
                 .terms = last_.counted,
                 .rounding = settings_.rounding,
                 .update = settings_.update},
                net_.gradient().data(), net_.parameters());
    ++steps_;
    move_biases();
    writer_ = net_.writer();
    gathered_ = 0;
  }

  static void check_recordable(void const* list, char const* what) {
    if (list && place<executor>::readable(list))
      throw invalid_argument("a recorded step reads its %s in memory of the device", what);
  }
  recorded record_on(batch const& b, matrix<S const> x, objective<executor> const& loss);

  Network& net_;
  adamw optimizer_;
  training settings_;
  routing_log log_;
  std::vector<weight_group> const groups_;
  std::vector<router_biases> const routers_;
  routing_log counts_;         // of the batches of this step
  std::int64_t gathered_ = 0;  // so many,
  std::int64_t filled_ = 0;    // and of them with tokens, which have quantiles
  /// The last batch, as far as report() needs it.
  struct pending {
    double made = 0;                        // of the loss, by the host
    double terms = 1;                       // of the loss,
    std::int64_t const* counted = nullptr;  // or where they are
    double loss_scale = 1;                  // that it had: the settings' may be another by now
    std::int64_t tokens = 0;
    routing_log* log = nullptr;
  } last_;
  typename place<executor>::template buffer<std::int32_t> targets_;  // of this batch, copied
  typename place<executor>::template buffer<S> own_loss_;            // its gradient, of a chunk
  std::int64_t reserved_ = 0;                                        // tokens
  finegrain::optimizer<executor> state_;
  std::int64_t steps_ = 0;
  std::uint64_t writer_ = 0;  // of the network's weights, when the optimiser last looked
};

}  // namespace finegrain::inline FINEGRAIN_ABI

#include "recorded.hpp"
