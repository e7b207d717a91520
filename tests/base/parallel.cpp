// Laws of base/parallel.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cmath>
#include <finegrain/base/parallel.hpp>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

/// How often each task of one loop ran.
std::vector<int> tally(fg::parallel threads, std::int64_t tasks) {
  std::vector<int> runs(static_cast<std::size_t>(tasks));
  threads(tasks, [&](std::int64_t task, int) { ++runs[static_cast<std::size_t>(task)]; });
  return runs;
}

bool each_once(std::vector<int> const& runs) {
  for (int const count : runs)
    if (count != 1) return false;
  return true;
}

}  // namespace

TEST_CASE("every task runs exactly once, whatever the number of workers and tasks") {
  int const workers = GENERATE(1, 2, 3, 8);
  fg::thread_pool pool(workers);
  CHECK(pool.workers() == workers);
  for (std::int64_t tasks = 0; tasks < 40; ++tasks) REQUIRE(each_once(tally(pool, tasks)));
  for (int round = 0; round < 500; ++round) REQUIRE(each_once(tally(pool, 1 + round % 17)));
  REQUIRE(each_once(tally(pool, 100'000)));
}

TEST_CASE("a pool or a runner without a worker is refused in a sentence") {
  auto const run = [](void*, std::int64_t, fg::parallel::body, void*) {};
  for (int const workers : {0, -1}) {
    std::string const number = std::to_string(workers);
    CHECK_THROWS_WITH(fg::thread_pool(workers),
                      ContainsSubstring("one worker or more, not " + number));
    CHECK_THROWS_WITH(fg::parallel(run, nullptr, workers),
                      ContainsSubstring("one worker or more, not by " + number));
  }
}

TEST_CASE("a loop has returned only when all its tasks have") {
  fg::thread_pool pool(3);
  fg::parallel const threads = pool;
  std::vector<double> values(64);
  for (int round = 1; round <= 2000; ++round) {
    threads(64, [&](std::int64_t i, int) { values[static_cast<std::size_t>(i)] += 1; });
    for (double const value : values) REQUIRE(value == round);
  }
}

TEST_CASE("a pool's threads round as the caller of a loop does") {
  fg::thread_pool pool(3);
  fg::parallel const threads = pool;
  auto const third = [] {
    float volatile const one = 1, three = 3;
    return one / three;
  };
  std::vector<float> made(200);
  std::atomic<int> others{0};
  float last = 1;
  for (int const mode : {FE_UPWARD, FE_DOWNWARD}) {
    std::fesetround(mode);
    float const own = third();
    threads(200, [&](std::int64_t i, int worker) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // so that others come in time
      made[static_cast<std::size_t>(i)] = third();
      others += worker > 0;
    });
    std::fesetround(FE_TONEAREST);
    CHECK(std::count(made.begin(), made.end(), own) == 200);
    CHECK(own < std::exchange(last, own));
  }
  CHECK(others > 0);
}

TEST_CASE("a worker's number is below the number of workers and is nobody else's meanwhile") {
  int const workers = GENERATE(2, 3, 8);
  fg::thread_pool pool(workers);
  fg::parallel const threads = pool;
  std::vector<std::atomic<int>> inside(static_cast<std::size_t>(workers));
  std::atomic<int> clashes{0};
  threads(5000, [&](std::int64_t, int worker) {
    if (worker < 0 || worker >= workers || inside[static_cast<std::size_t>(worker)]++ != 0)
      ++clashes;
    else
      --inside[static_cast<std::size_t>(worker)];
  });
  CHECK(clashes == 0);
}

TEST_CASE("workers do take part") {
  fg::thread_pool pool(2);
  fg::parallel const threads = pool;
  // Two tasks that wait for each other end only if two threads run them.
  std::atomic<int> arrived{0};
  threads(2, [&](std::int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  CHECK(arrived == 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));  // the worker sleeps by now
  arrived = 0;
  threads(2, [&](std::int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  CHECK(arrived == 2);
}

TEST_CASE("a loop inside a loop runs every task once") {
  fg::thread_pool pool(3);
  fg::parallel const threads = pool;
  std::vector<int> runs(20 * 30);
  threads(20, [&](std::int64_t i, int) {
    threads(30, [&](std::int64_t j, int worker) {
      runs[static_cast<std::size_t>(i * 30 + j)] += worker == 0;
    });
  });
  CHECK(each_once(runs));
  CHECK(each_once(tally(threads, 50)));  // and the pool is as it was
}

TEST_CASE("several threads may call one pool") {
  fg::thread_pool pool(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round)
        if (!each_once(tally(pool, 25))) ++wrong;
    });
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("fixed tasks give the same bits with any number of workers") {
  auto const sum = [](fg::parallel threads) {
    std::vector<float> parts(37);
    threads(37, [&](std::int64_t task, int) {
      float part = 0;
      for (int i = 0; i < 1000; ++i) part += std::sin(static_cast<float>(task * 1000 + i)) * 1e-3F;
      parts[static_cast<std::size_t>(task)] = part;
    });
    float total = 0;
    for (float const part : parts) total += part;
    return total;
  };
  float const serial = sum({});
  for (int const workers : {1, 2, 3, 8}) {
    fg::thread_pool pool(workers);
    CHECK(sum(pool) == serial);
  }
}

TEST_CASE("a runner of one's own gets every loop of more than one task") {
  struct runner {
    int loops = 0;
    static void run(void* self, std::int64_t tasks, fg::parallel::body f, void* context) {
      ++static_cast<runner*>(self)->loops;
      for (std::int64_t task = tasks; task-- > 0;) f(context, task, 1);
    }
  } mine;
  fg::parallel const threads(runner::run, &mine, 2);
  CHECK(each_once(tally(threads, 9)));
  CHECK(each_once(tally(threads, 1)));
  CHECK(each_once(tally(threads, 0)));
  CHECK(mine.loops == 1);
}

TEST_CASE("a pool that has slept or was never used ends") {
  auto idle = std::make_unique<fg::thread_pool>(4);
  idle.reset();
  auto used = std::make_unique<fg::thread_pool>(4);
  CHECK(each_once(tally(*used, 100)));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  used.reset();
  for (int i = 0; i < 100; ++i) CHECK(each_once(tally(*std::make_unique<fg::thread_pool>(3), 7)));
}

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER
#endif
#endif
#if !defined(THREAD_SANITIZER)  // which stops a child that starts threads
TEST_CASE("a forked child runs loops on threads of its own") {
  fg::thread_pool pool(3);
  CHECK(each_once(tally(pool, 100)));
  pid_t const child = ::fork();
  if (child == 0) {
    alarm(20);
    bool const right = each_once(tally(pool, 1000)) && each_once(tally(pool, 10));
    ::_exit(right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(each_once(tally(pool, 100)));
}
#endif

#ifdef CPU_COUNT
TEST_CASE("a pool has no more workers than cores that the process may run on") {
  cpu_set_t all, one;
  REQUIRE(::sched_getaffinity(0, sizeof all, &all) == 0);
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  int const workers = fg::thread_pool().workers();
  REQUIRE(::sched_setaffinity(0, sizeof all, &all) == 0);
  CHECK(workers == 1);
  CHECK(fg::thread_pool().workers() == fg::usable_cores());
}
#endif

TEST_CASE("the default pool has a worker for every core that the process may keep busy") {
  CHECK(fg::default_threads().workers() == fg::usable_cores());
  CHECK(each_once(tally(fg::default_threads(), 1000)));
}
