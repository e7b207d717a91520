// stopwatch: what the nodes of a timed expression took, and how an executor measures it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <time.h>

#include <vector>

#include "plan.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What the nodes of a timed expression took, all passes since the rows were last cleared. Row 0 is
/// the whole; then come the lines of `explain` that name a plan, in their order.
struct timings {
  struct sum {
    std::int64_t calls = 0;
    double seconds = 0;
  };
  struct row {
    sum forward = {}, backward = {};
    sum both = {};  // forward, loss and backward in one: what ends in the loss of a training step

    /// How often the node was run forward, and what all its passes took.
    std::int64_t calls() const { return forward.calls + both.calls; }
    double seconds() const { return forward.seconds + backward.seconds + both.seconds; }
    /// Their work, a forward pass being 1: a backward pass has twice its products and its traffic.
    double passes() const {
      return static_cast<double>(forward.calls + 2 * backward.calls + 3 * both.calls);
    }
  };
  using phase = sum row::*;
  std::vector<row> rows;  // the first pass makes them

  void add(std::size_t at, phase of, double seconds) {
    if (rows.size() <= at) rows.resize(at + 1);
    sum& to = rows[at].*of;
    to.seconds += seconds;
    ++to.calls;
  }
};

/// How executor X measures what lies between a begin and an end, inside which others may lie; row 0
/// is around all. Without a batch's `times` neither does anything. This one reads a clock: executors
/// that are not done when a call returns specialise it.
template <class X>
struct stopwatch {
  static_assert(place<X>::here, "this executor has no stopwatch: see plan/stopwatch.hpp");

  static double begin(pass<X> const& p, std::size_t) { return p.batch.times ? now() : 0; }
  static void end(pass<X> const& p, std::size_t row, timings::phase phase, double begun) {
    if (p.batch.times) p.batch.times->add(row, phase, now() - begun);
  }

 private:
  static double now() {  // not <chrono>: who includes the library would compile it
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
