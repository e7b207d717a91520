// Laws of base/cores.hpp: a container's quota, read from files as Linux has them.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/cores.hpp>
#include <thread>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

namespace {

/// A folder as /sys/fs/cgroup, and a list of groups as /proc/self/cgroup.
struct mounted {
  folder here;
  std::string groups;
  explicit mounted(std::string lines) : groups(std::move(lines)) {}

  void add(std::string const& file, std::string const& text) {
    std::filesystem::create_directories(std::filesystem::path(here / file).parent_path());
    put(here / file, text);
  }
  long long quota() {
    put(here / "self", groups);
    return fg::detail::cpu_quota(here / "self", here.path);
  }
};

}  // namespace

TEST_CASE("a quota of version 2 is rounded up to whole cores") {
  mounted m("0::/\n");
  CHECK(m.quota() == 0);  // nothing is mounted
  auto const [text, cores] = GENERATE(table<char const*, long long>({{"200000 100000\n", 2},
                                                                     {"150000 100000\n", 2},
                                                                     {"100001 100000\n", 2},
                                                                     {"1000 100000\n", 1},
                                                                     {"max 100000\n", 0},
                                                                     {"0 100000\n", 0},
                                                                     {"200000 0\n", 0},
                                                                     {"200000", 0},
                                                                     {"", 0}}));
  m.add("cpu.max", text);
  CHECK(m.quota() == cores);
}

TEST_CASE("the least quota of a group and of those that hold it counts") {
  mounted m("0::/user.slice/job.scope\n");
  m.add("user.slice/job.scope/cpu.max", "max 100000\n");
  CHECK(m.quota() == 0);
  m.add("user.slice/cpu.max", "300000 100000\n");
  CHECK(m.quota() == 3);
  m.add("user.slice/job.scope/cpu.max", "800000 100000\n");
  CHECK(m.quota() == 3);
  m.add("user.slice/job.scope/cpu.max", "80000 40000\n");
  CHECK(m.quota() == 2);
  m.add("user.slice/other.scope/cpu.max", "100000 100000\n");
  CHECK(m.quota() == 2);
}

TEST_CASE("a quota of version 1 is its time over its period") {
  mounted m("5:cpuset:/elsewhere\n4:cpu,cpuacct:/docker/0f\n1:name=systemd:/docker/0f\n0::/\n");
  m.add("cpu/elsewhere/cpu.cfs_quota_us", "100000\n");
  m.add("cpu/elsewhere/cpu.cfs_period_us", "100000\n");
  CHECK(m.quota() == 0);
  m.add("cpu/cpu.cfs_quota_us", "250000\n");  // the container's own, under the host's path
  CHECK(m.quota() == 0);
  m.add("cpu/cpu.cfs_period_us", "100000\n");
  CHECK(m.quota() == 3);
  m.add("cpu/cpu.cfs_quota_us", "-1\n");
  CHECK(m.quota() == 0);
}

TEST_CASE("a list of groups that says nothing sets no limit") {
  mounted m(GENERATE("", "\n", "0", "0:", "0::", "cpu", "7:cpu:no/slash\n", "0::/../../\n"));
  CHECK(m.quota() == 0);
  CHECK(fg::detail::cpu_quota(m.here / "nothing", m.here.path) == 0);
}

TEST_CASE("a process has at least a core, and no more than there are") {
  CHECK(fg::usable_cores() >= 1);
  CHECK(fg::usable_cores() <= int(std::thread::hardware_concurrency()));
}
