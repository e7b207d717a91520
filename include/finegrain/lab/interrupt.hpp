// Ctrl-C as a wish: the loop that works sees it, finishes what it is at, and saves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// While one of these lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the
/// program as usual. The handlers that were there before come back at the end, and get a signal that
/// nobody has seen: it came after the last look at this.
class interruption {
 public:
  interruption() {
    wished() = 0;
    struct sigaction on = {};
    on.sa_handler = [](int signal) { wished() = signal; };
    on.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    ::sigemptyset(&on.sa_mask);
    ::sigaction(SIGINT, &on, &before_[0]);
    ::sigaction(SIGTERM, &on, &before_[1]);
  }
  ~interruption() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
    if (!seen_ && wished() != 0) ::raise(wished());
  }
  interruption(interruption const&) = delete;
  interruption& operator=(interruption const&) = delete;

  explicit operator bool() const {
    seen_ = wished() != 0;
    return seen_;
  }

 private:
  static std::sig_atomic_t volatile& wished() {
    static std::sig_atomic_t volatile flag = 0;
    return flag;
  }
  struct sigaction before_[2];
  mutable bool seen_ = false;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
