// parallel: the hook through which loops reach threads, and a pool for those who bring none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Runs a loop of independent tasks. It refers to somebody's threads and owns none; copying is
/// cheap. Which worker runs a task is open; what a task computes must not depend on it.
class parallel {
 public:
  /// The body that a runner calls: body(context, task, worker), 0 <= worker < workers.
  using body = void (*)(void* context, std::int64_t task, int worker);
  /// Calls `body` once for every task in [0, tasks) and returns when all have returned.
  using runner = void (*)(void* threads, std::int64_t tasks, body, void* context);

  /// One thread: the caller's.
  constexpr parallel() = default;
  /// A runner over threads of your own, at most `workers` bodies at a time.
  constexpr parallel(runner run, void* threads, int workers)
      : run_(run), threads_(threads), workers_(workers) {}

  constexpr int workers() const { return workers_; }

  /// f(task, worker) for every task in [0, tasks). f must not throw.
  template <class F>
  void operator()(std::int64_t tasks, F&& f) const {
    using function = std::remove_reference_t<F>;
    if (!run_ || workers_ == 1 || tasks <= 1) {
      for (std::int64_t task = 0; task < tasks; ++task) f(task, 0);
      return;
    }
    run_(
        threads_, tasks,
        [](void* context, std::int64_t task, int worker) noexcept {
          (*static_cast<function*>(context))(task, worker);
        },
        const_cast<void*>(static_cast<void const*>(std::addressof(f))));
  }

 private:
  runner run_ = nullptr;
  void* threads_ = nullptr;
  int workers_ = 1;
};

/// A pool of threads that sleep between loops. The caller works too: n workers are n - 1 threads.
/// Loops from several callers take turns; a loop inside a loop runs on its own worker. After a
/// fork the child starts threads of its own.
class thread_pool {
 public:
  explicit thread_pool(int workers = static_cast<int>(std::thread::hardware_concurrency()))
      : workers_(workers < 1 ? 1 : workers), crew_(std::make_unique<crew>(workers_)) {}
  ~thread_pool() {
    if (crew_->process != ::getpid()) static_cast<void>(crew_.release());
  }
  thread_pool(thread_pool const&) = delete;
  thread_pool& operator=(thread_pool const&) = delete;

  int workers() const { return workers_; }
  operator parallel() {  // NOLINT(*-explicit*)
    return {[](void* pool, std::int64_t tasks, parallel::body f, void* context) {
              static_cast<thread_pool*>(pool)->run(tasks, f, context);
            },
            this, workers_};
  }

 private:
  struct crew {
    explicit crew(int workers) : process(::getpid()) {
      try {
        for (int i = 1; i < workers; ++i) threads.emplace_back([this, i] { work(i); });
      } catch (...) {
        stop();
        throw;
      }
    }
    ~crew() { stop(); }

    void stop() {
      {
        std::lock_guard lock(mutex);
        stopping = true;
      }
      wake.notify_all();
      for (auto& thread : threads) thread.join();
    }

    void work(int worker) {
      inside() = true;
      for (std::uint64_t seen = 0;;) {
        {
          std::unique_lock lock(mutex);
          wake.wait(lock, [&] { return stopping || round != seen; });
          if (stopping) return;
          seen = round;
        }
        drain(worker);
        std::lock_guard lock(mutex);
        if (--busy == 0) done.notify_one();
      }
    }

    void drain(int worker) {
      for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        function(context, task, worker);
    }

    pid_t const process;
    std::vector<std::thread> threads;
    std::mutex turn;   // held by the caller whose loop is running
    std::mutex mutex;  // guards all below, `next` apart
    std::condition_variable wake, done;
    std::uint64_t round = 0;
    int busy = 0;
    bool stopping = false;
    std::atomic<std::int64_t> next{0};
    std::int64_t tasks = 0;
    parallel::body function = nullptr;
    void* context = nullptr;
  };

  /// Whether this thread is inside a loop already: a nested loop then runs where it is.
  static bool& inside() {
    thread_local bool value = false;
    return value;
  }

  void run(std::int64_t tasks, parallel::body f, void* context) {
    if (inside()) {
      for (std::int64_t task = 0; task < tasks; ++task) f(context, task, 0);
      return;
    }
    if (crew_->process != ::getpid()) {  // forked: the parent's threads are not here
      static_cast<void>(crew_.release());
      crew_ = std::make_unique<crew>(workers_);
    }
    crew& c = *crew_;
    std::lock_guard turn(c.turn);
    {
      std::lock_guard lock(c.mutex);
      c.tasks = tasks;
      c.function = f;
      c.context = context;
      c.next.store(0, std::memory_order_relaxed);
      c.busy = workers_ - 1;
      ++c.round;
    }
    c.wake.notify_all();
    inside() = true;
    c.drain(0);
    inside() = false;
    std::unique_lock lock(c.mutex);
    c.done.wait(lock, [&] { return c.busy == 0; });
  }

  int workers_;
  std::unique_ptr<crew> crew_;
};

/// The pool that executors use unless told otherwise; it starts when it is first asked for.
inline parallel default_threads() {
  static thread_pool pool;
  return pool;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
