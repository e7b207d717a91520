// Ctrl-C as a wish: the loop that works sees it, finishes what it is at, and saves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// While one of these lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the
/// program as usual. The handlers that were there before come back at the end.
class interruption {
 public:
  interruption() {
    wished() = 0;
    struct sigaction on = {};
    on.sa_handler = [](int) { wished() = 1; };
    on.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    ::sigemptyset(&on.sa_mask);
    ::sigaction(SIGINT, &on, &before_[0]);
    ::sigaction(SIGTERM, &on, &before_[1]);
  }
  ~interruption() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }
  interruption(interruption const&) = delete;
  interruption& operator=(interruption const&) = delete;

  explicit operator bool() const { return wished() != 0; }

 private:
  static std::sig_atomic_t volatile& wished() {
    static std::sig_atomic_t volatile flag = 0;
    return flag;
  }
  struct sigaction before_[2];
};

}  // namespace finegrain::inline FINEGRAIN_ABI
