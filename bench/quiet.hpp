// Whether a sample is clean: nobody else used the cores meanwhile.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

namespace bench {

/// Watches from its construction. A sample of less than 0.1 s is spoilt if one of our threads was
/// preempted; a longer one if that happened more than 2 + 20 times a second, or if others (the
/// host's other guests among them) used more than 3 % of the cores.
class quiet_watch {
 public:
  quiet_watch() : before_(now()) {}

  bool clean() const {
    state const after = now();
    double const seconds = after.time - before_.time;
    auto const preempted = double(after.preempted - before_.preempted);
    if (seconds < 0.1) return preempted == 0;
    return preempted <= 2 + 20 * seconds && others(after) <= 0.03;
  }
  /// The part of the cores' time that others used until now.
  double others() const { return others(now()); }

 private:
  struct state {
    double time, busy, own;  // seconds
    long preempted;
  };

  double others(state const& after) const {
    double const seconds = after.time - before_.time;
    double const foreign = after.busy - before_.busy - (after.own - before_.own);
    return foreign / std::max(seconds * std::thread::hardware_concurrency(), 1e-9);
  }
  static state now() {
    state s{};
    s.time =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    auto const seconds = [](timeval t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
    s.own = seconds(used.ru_utime) + seconds(used.ru_stime);
    s.preempted = used.ru_nivcsw;
    std::ifstream stat("/proc/stat");  // elsewhere than on Linux nothing is read: others() < 0
    std::string name;
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0;
    stat >> name >> user >> nice >> system >> idle >> wait >> irq >> softirq >> steal;
    s.busy = (user + nice + system + irq + softirq + steal) / double(::sysconf(_SC_CLK_TCK));
    return s;
  }

  state before_;
};

/// Waits until others leave the cores alone, for so many seconds at most.
inline void wait_until_quiet(double most) {
  for (double waited = 0; waited < most; waited += 0.1) {
    quiet_watch const watch;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (watch.others() < 0.03) return;
  }
}

}  // namespace bench
