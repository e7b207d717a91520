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
    return train_->net_.learning_memory() == memory_ && train_->net_.on().context->moves == moves_;
  }
  /// Enqueues the step on the network's stream. Throws invalid_argument if it does not stand.
  void operator()() {
    if (!stands())
      throw invalid_argument("the network's memory has moved since this step was recorded");
    train_->gathered_ = 0;
    graph_.replay(train_->net_.on().stream);
    train_->last_ = last_;
    ++train_->steps_;
  }

 private:
  friend class trainer;
  recorded(trainer& train, device::recording graph, pending const& last)
      : train_(&train),
        memory_(train.net_.learning_memory()),
        moves_(train.net_.on().context->moves),
        graph_(std::move(graph)),
        last_(last) {}
  trainer* train_;
  typename Network::learning_places memory_;
  std::int64_t moves_;
  device::recording graph_;
  pending last_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
