// recorded: a step of a trainer as a graph. trainer.hpp includes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "trainer.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A step of a trainer as a graph. The trainer, and the batch's log if it had one, must stay where
/// they are.
template <class Network>
class trainer<Network>::recorded {
 public:
  /// Whether it can still be called.
  bool stands() const {
    return train_->net_.learning_memory() == memory_ &&
           (!own_loss_ || train_->own_loss_.data() == own_loss_) &&
           train_->net_.on().context->moves == moves_;
  }
  /// Enqueues the step on the network's stream. Throws invalid_argument if it does not stand.
  void operator()() {
    if (!stands())
      throw invalid_argument("the network's memory has moved since this step was recorded");
    train_->gathered_ = 0;
    train_->follow();
    graph_.replay(train_->net_.on().stream);
    train_->last_ = last_;
    ++train_->steps_;
  }

 private:
  friend class trainer;
  recorded(trainer& train, device::recording graph, pending const& last, S const* own_loss)
      : train_(&train),
        memory_(train.net_.learning_memory()),
        own_loss_(own_loss),
        moves_(train.net_.on().context->moves),
        graph_(std::move(graph)),
        last_(last) {}
  trainer* train_;
  typename Network::learning_places memory_;
  S const* own_loss_;  // where a loss of the user's own has its gradient, if it is one
  std::int64_t moves_;
  device::recording graph_;
  pending last_;
};

/// Enqueues a step on a stream that records it; the trainer is then as it was, and no step was done.
template <class Network>
auto trainer<Network>::record_on(batch const& b, matrix<S const> x, objective<executor> const& loss)
    -> recorded {
  check_recordable(x.data, "x");
  check_recordable(loss.targets(), "targets");
  check_recordable(b.ids.data(), "token ids");
  check_recordable(b.starts.data(), "starts");
  check_recordable(b.positions.data(), "positions");
  if (b.routing.earlier)
    throw invalid_argument("a recorded step is of one batch: it has no earlier ones");
  if (settings_.bias.quantile)
    throw invalid_argument("biases by quantile are made by the host: such a step is not recorded");
  if (settings_.rule)
    throw invalid_argument("a recorded step has the settings of now: no rule can change them");
  reserve(b.tokens);
  if (loss.own()) reserve_loss(b.tokens);
  follow();  // before the recording, not in it
  if (b.log) {
    for (routing_report const& layer : b.log->layers)
      if (!layer.experts.empty())
        throw invalid_argument("a recorded step's log has no room for choices: use make_log()");
    place<executor>::reserve_log(net_.on(), *b.log);
  }
  struct restored {
    trainer& t;
    CUstream_st* const stream = t.net_.on().stream;
    std::int64_t const steps = t.steps_, gathered = t.gathered_;
    pending const last = t.last_;
    ~restored() {
      t.net_.on().stream = stream, t.last_ = last;
      t.steps_ = steps, t.gathered_ = gathered;
    }
  } const guard{*this};
  device::recording graph([&](CUstream_st* stream) {
    net_.on().stream = stream;
    enqueue(b, x, loss);
  });
  return recorded(*this, std::move(graph), last_, loss.own() ? own_loss_.data() : nullptr);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
