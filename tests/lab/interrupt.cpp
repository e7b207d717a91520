// Signals as wishes.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <finegrain/lab/interrupt.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {
int caught = 0;
}

TEST_CASE("A signal is a flag while an interruption lives, and then what it was before") {
  auto* const before = std::signal(SIGTERM, [](int) { ++caught; });
  {
    fg::interruption const stop;
    CHECK_FALSE(stop);
    std::raise(SIGTERM);
    CHECK(stop);
    CHECK(caught == 0);
  }
  std::raise(SIGTERM);
  CHECK(caught == 1);
  {
    fg::interruption const stop;
    CHECK_FALSE(stop);
    std::raise(SIGTERM);  // after the last look
  }
  CHECK(caught == 2);
  CHECK_FALSE(fg::interruption());
  std::signal(SIGTERM, before);
}
