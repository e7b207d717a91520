// parallel: the hook through which loops reach threads, and a pool for those who bring none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Not <thread> and <mutex>: with their clocks and stop tokens they take as long to compile as a
// quarter of the library.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "buffer.hpp"
#include "cores.hpp"
#include "error.hpp"
#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Runs a loop of independent tasks. It refers to somebody's threads and owns none; copying is
/// cheap. Which worker runs a task is open; what a task computes must not depend on it.
class parallel {
 public:
  /// The body that a runner calls: body(context, task, worker), 0 <= worker < workers, and no two of
  /// a loop at a time with one worker, whose scratch memory is its own.
  using body = void (*)(void* context, std::int64_t task, int worker);
  /// Calls `body` once for every task in [0, tasks) and returns when all have returned. Where several
  /// threads run passes, each of them calls it.
  using runner = void (*)(void* threads, std::int64_t tasks, body, void* context);

  /// One thread: the caller's.
  constexpr parallel() = default;
  /// A runner over threads of your own, at most `workers` bodies at a time. Throws invalid_argument
  /// without a worker.
  constexpr parallel(runner run, void* threads, int workers)
      : run_(run), threads_(threads), workers_(workers) {
    if (workers < 1)
      throw invalid_argument("loops are run by one worker or more, not by %d", workers);
  }

  constexpr int workers() const { return workers_; }

  /// f(task, worker) for every task in [0, tasks). f must not throw.
  template <class F>
  void operator()(std::int64_t tasks, F&& f) const {
    void* const context = const_cast<void*>(static_cast<void const*>(__builtin_addressof(f)));
    body const once = call<std::remove_reference_t<F>>;
    if (!run_ || workers_ == 1 || tasks <= 1)
      for (std::int64_t task = 0; task < tasks; ++task) once(context, task, 0);
    else
      run_(threads_, tasks, once, context);
  }

 private:
  /// One copy of a loop's body for any number of threads: a second one, inlined elsewhere, may be
  /// given other fused multiply-adds, and then other bits.
  template <class F>
  FINEGRAIN_ONE_COPY static void call(void* f, std::int64_t task, int worker) noexcept {
    (*static_cast<F*>(f))(task, worker);
  }

  runner run_ = nullptr;
  void* threads_ = nullptr;
  int workers_ = 1;
};

/// A pool of threads, one for each usable core by default. The caller works too: n workers are n - 1
/// threads, which watch for the next loop for a moment and then sleep; a loop that ends before a
/// sleeper is up does without it. Loops from several callers take turns; a loop inside a loop runs on
/// its own worker. Threads round, and keep subnormal numbers or not, as a loop's caller does. After a
/// fork the child starts threads of its own.
class thread_pool {
 public:
  /// Throws invalid_argument without a worker: std::thread::hardware_concurrency() may be 0.
  explicit thread_pool(int workers = usable_cores())
      : workers_(workers > 0
                     ? workers
                     : throw invalid_argument("a thread_pool has one worker or more, not %d: "
                                              "without a number it has one for each usable core",
                                              workers)),
        crew_(new crew(workers_)) {}
  ~thread_pool() {
    if (crew const* const mine = crew_.load(); mine->process == ::getpid()) delete mine;
  }
  thread_pool(thread_pool const&) = delete;
  thread_pool& operator=(thread_pool const&) = delete;

  int workers() const { return workers_; }
  operator parallel() && = delete;  // it would outlive the pool
  operator parallel() & {           // NOLINT(*-explicit*)
    return {[](void* pool, std::int64_t tasks, parallel::body f, void* context) {
              static_cast<thread_pool*>(pool)->run(tasks, f, context);
            },
            this, workers_};
  }

 private:
  struct crew {
    explicit crew(int workers)
        : process(::getpid()), patience(workers > usable_cores() ? 0 : 200), threads(workers - 1) {
      ::pthread_attr_t with_stack;  // of 8 MB, which is not everywhere the default
      ::pthread_attr_init(&with_stack);
      ::pthread_attr_setstacksize(&with_stack, 8 << 20);
      // When no more threads are to be had, those that are there, and the caller, do the work.
      while (made < threads.size() &&
             ::pthread_create(&threads[made], &with_stack, begin, this) == 0)
        ++made;
      ::pthread_attr_destroy(&with_stack);
    }
    ~crew() {
      start(0, nullptr, nullptr);
      for (std::int64_t i = 0; i < made; ++i) ::pthread_join(threads[i], nullptr);
    }

    static void* begin(void* mine) {
      crew& c = *static_cast<crew*>(mine);
      c.work(++c.hired);
      return nullptr;
    }

    /// Opens a round. Nobody is inside one, so that nobody reads what is written here.
    void start(std::int64_t count, parallel::body f, void* with) {
      tasks = count;
      function = f;
      context = with;
      mode = read_float_mode();
      next.store(0, std::memory_order_relaxed);
      round.fetch_add(1);
      round.notify_all();
    }

    /// Closes the round to late workers and waits for those inside.
    void finish() {
      round.fetch_add(1);
      for (int left; (left = busy.load()) != 0;) await_change(busy, left);
    }

    void work(int worker) {
      inside() = true;
      for (std::uint32_t seen = 0;;) {
        await_change(round, seen);
        seen = round.load();
        if (seen % 2 == 0) continue;
        // In this order, and seq_cst: either we see the round closed, or finish() sees us.
        ++busy;
        if (round.load() == seen) {
          if (!function) return;
          set_float_mode(mode);
          drain(worker);
        }
        if (--busy == 0) busy.notify_one();
      }
    }

    void drain(int worker) {
      for (std::int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        function(context, task, worker);
    }

    /// Waking a sleeper costs some 50 us, so it pays to look out for about as long before sleeping.
    template <class Value>
    void await_change(std::atomic<Value> const& value, Value old) const {
      for (int i = 0; i < patience; ++i) {
        if (value.load() != old) return;
        ::sched_yield();
      }
      value.wait(old);
    }

    pid_t const process;
    int const patience;  // 0 where the workers have to share cores
    buffer<pthread_t> threads;
    std::int64_t made = 0;                // of them
    std::atomic<int> hired{0};            // threads that have begun
    std::atomic<int> turn{0};             // 1 while a caller's loop is running
    std::atomic<std::uint32_t> round{0};  // odd while a loop runs
    std::atomic<int> busy{0};             // workers inside the round, or about to look
    std::atomic<std::int64_t> next{0};
    std::int64_t tasks = 0;
    parallel::body function = nullptr;  // in an open round, null says: stop
    void* context = nullptr;
    float_mode mode = 0;  // the caller's
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
    crew& c = here();
    while (c.turn.exchange(1) != 0) c.turn.wait(1);
    c.start(tasks, f, context);
    inside() = true;
    c.drain(0);
    inside() = false;
    c.finish();
    c.turn.store(0);
    c.turn.notify_one();
  }

  /// The crew of this process. After a fork the parent's is not here: it is left behind, and the
  /// first caller's new one is everybody's.
  crew& here() {
    crew* known = crew_.load();
    if (known->process == ::getpid()) return *known;
    auto* const fresh = new crew(workers_);
    if (crew_.compare_exchange_strong(known, fresh)) return *fresh;
    delete fresh;
    return *known;
  }

  int workers_;
  std::atomic<crew*> crew_;
};

/// The pool that executors use unless told otherwise; it starts when it is first asked for.
FINEGRAIN_ONE_COPY inline parallel default_threads() {
  static thread_pool pool;
  return pool;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
