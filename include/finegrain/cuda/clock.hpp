// clock: when the device came by which places of a pass.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../plan/stopwatch.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The nodes of one timed pass, each between two events of a stream. Events are made once, and are
/// used again by the next pass.
class clock {
 public:
  clock() = default;
  clock(clock const&) = delete;
  clock& operator=(clock const&) = delete;
  ~clock() {
    for (CUevent_st* event : events_) runtime::release_event(event);
  }

  /// A new pass.
  void clear() { nodes_.clear(), used_ = 0; }
  /// When all that the stream has by now is done: an event's number.
  std::size_t mark(CUstream_st* stream) {
    if (used_ == events_.size()) {
      events_.reserve(used_ + 1);
      events_.push_back(runtime::make_event());
    }
    runtime::record_event(events_[used_], stream);
    return used_++;
  }
  void add(std::size_t row, timings::phase phase, std::size_t begin, std::size_t end) {
    nodes_.push_back({row, phase, begin, end});
  }
  /// The time between two marks. Waits for the second.
  double seconds(std::size_t begin, std::size_t end) const {
    return runtime::seconds_between(events_[begin], events_[end]);
  }
  /// Adds what was between each node's marks. Waits for all.
  void read(timings& to) const {
    for (node const& n : nodes_) to.add(n.row, n.phase, seconds(n.begin, n.end));
  }

 private:
  struct node {
    std::size_t row;
    timings::phase phase;
    std::size_t begin, end;
  };
  std::vector<node> nodes_;
  std::vector<CUevent_st*> events_;
  std::size_t used_ = 0;
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
