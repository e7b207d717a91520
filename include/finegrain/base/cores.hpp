// How many cores this process may keep busy: what a batch system or a container has left it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// The two whole numbers that a file begins with; what is not there stays as it was.
inline void read_numbers(std::string const& path, long long& first, long long& second) {
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (!file) return;
  static_cast<void>(std::fscanf(file, "%lld %lld", &first, &second) == 2);
  std::fclose(file);
}

/// Cores, rounded up, that the control group of a folder may keep busy; 0: any number.
inline long long group_quota(std::string const& folder) {
  long long time = 0, period = 0, none = 0;
  read_numbers(folder + "/cpu.max", time, period);         // version 2: both; "max" is no number
  read_numbers(folder + "/cpu.cfs_quota_us", time, none);  // version 1; -1: any
  read_numbers(folder + "/cpu.cfs_period_us", period, none);
  return time > 0 && period > 0 ? (time - 1) / period + 1 : 0;
}

/// The least quota of this process's control groups and of those that hold them; 0: none. `groups`
/// has a line "number:controllers:/path" for each, and they stand below `root`; in a container the
/// path may be the host's, and its group is then at the root.
inline long long cpu_quota(std::string const& groups, std::string const& root) {
  std::FILE* const file = std::fopen(groups.c_str(), "re");
  if (!file) return 0;
  long long least = 0;
  char text[4096];
  while (std::fgets(text, sizeof text, file)) {
    std::string const line = text;
    std::size_t const first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    // Version 2 has one group for all controllers; version 1 has those of "cpu" in a folder.
    std::string controllers(1, ',');
    controllers.append(line, first + 1, second - first - 1) += ',';
    if (controllers != ",," && controllers.find(",cpu,") == line.npos) continue;
    std::string const top = controllers == ",," ? root : root + "/cpu";
    std::string path = line.substr(second + 1, line.find('\n') - second - 1);
    for (;; path.resize(path.rfind('/'))) {
      long long const quota = group_quota(top + path);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (path.rfind('/') == path.npos) break;
    }
  }
  std::fclose(file);
  return least;
}

}  // namespace detail

/// Cores that this process may keep busy: those that it may run on, or fewer where its control group
/// has a quota of their time, as a container with `--cpus` has. 1 where the system does not say.
inline int usable_cores() {
  long long cores = ::sysconf(_SC_NPROCESSORS_ONLN);
#ifdef CPU_COUNT
  cpu_set_t mine;  // of up to 1024 cores
  if (::sched_getaffinity(0, sizeof mine, &mine) == 0) cores = CPU_COUNT(&mine);
#endif
  long long const quota = detail::cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota > 0 && quota < cores) cores = quota;
  return cores < 1 ? 1 : static_cast<int>(cores);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
