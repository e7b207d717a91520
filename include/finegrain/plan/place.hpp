// place: where an executor's numbers live, and how the host reaches them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "../base/math.hpp"
#include "../base/parallel.hpp"
#include "../config/config.hpp"
#include "kv_cache.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What computes expressions: cpu, cuda, basic_reference<T>, or one of your own. It says in which
/// numbers.
template <class X>
concept Executor = requires {
  typename X::scalar;
};

/// Memory of the host, shared by the executor's threads. Executors of other memory specialise this.
template <class X>
struct place {
  using S = typename X::scalar;
  template <class T>
  using buffer = finegrain::buffer<T>;
  using cache = kv_cache<S>;
  using sum = S;  // what sums are kept in between passes: a norm's, a softmax's

  /// Whether a pass is done when its call returns, and what it wrote is the host's to read.
  static constexpr bool here = true;
  /// Bytes of which the address of a caller's weights, or gradients, is a multiple.
  static constexpr std::int64_t border = alignof(S);
  /// Memory for logits that are made some tokens at a time, and how many tokens at most.
  static constexpr std::int64_t chunk_bytes = std::int64_t{32} << 20, chunk_most = 1024;
  /// Whether the host can read what stands here.
  static bool readable(void const*) { return true; }
  /// How many workers scratch memory must serve.
  static int workers(X const& on) { return on.threads.workers(); }
  /// What passes of so many tokens need of the executor's own memory.
  static void reserve(X const&, std::int64_t) {}
  /// The batch with lists that the executor can read, copied to `memory` if need be, which has
  /// staging_bytes of the batch's tokens; and where its tokens go in a cache.
  static batch staged(X const&, batch const& b, arena, cache* = nullptr) { return b; }
  static constexpr std::int64_t staging_bytes(std::int64_t) { return 0; }
  /// A whole number, wherever it is.
  static std::int64_t read(X const&, std::int64_t const* from) { return *from; }
  /// A list that the executor can read: this one, or a copy of it in `memory`, which grows.
  static id_list list(X const&, buffer<std::int32_t>&, id_list const& from) { return from; }
  /// Throws invalid_argument where a router cannot do what is asked of it.
  static void check(config const&, routing_request const&) {}
  /// Threads for work of the host's on weights.
  static parallel const& threads(X const& on) { return on.threads; }
  /// Fills an array of weights: make(data, threads) writes them in memory of the host.
  template <class T, class Make>
  static void write(X const& on, std::span<T> to, Make&& make) {
    make(to.data(), threads(on));
  }
  /// An array's numbers as the host reads them, these or a copy; and back.
  template <class T>
  static std::span<T const> fetched(X const&, std::span<T> numbers) {
    return numbers;
  }
  static void store(X const&, std::vector<S> const& from, std::span<S> to) {
    std::copy(from.begin(), from.end(), to.begin());
  }
  /// So many numbers as the host reads them: these, or copies in `memory`.
  static sum const* seen(X const&, std::vector<sum>&, S const* from, std::int64_t) { return from; }
  /// Copies numbers to others of the executor's, and whether all of some are finite.
  static void copy(X const&, S const* from, std::int64_t count, S* to) {
    std::copy_n(from, count, to);
  }
  static bool finite(X const& on, S const* from, std::int64_t count) {
    constexpr std::int64_t stretch = 1 << 16;
    std::atomic<bool> all = true;
    threads(on)((count + stretch - 1) / stretch, [&](std::int64_t i, int) {
      S const* const begin = from + i * stretch;
      if (!std::all_of(begin, std::min(begin + stretch, from + count),
                       [](S x) { return math::isfinite(x); }))
        all.store(false, std::memory_order_relaxed);
    });
    return all.load(std::memory_order_relaxed);
  }
  static void clear(X const&, buffer<S> const& numbers) {
    std::fill(numbers.begin(), numbers.end(), S(0));
  }
  /// Whether what is enqueued is recorded, and runs later.
  static bool records(X const&) { return false; }
  /// Waits for what was enqueued.
  static void wait(X const&) {}
  /// Losses add up on the host as they are made, or elsewhere: then `total` waits for them.
  static void begin_total(X const&) {}
  static double total(X const&, double made) { return made; }
  /// Room for what routers write elsewhere; and, after a pass of so many tokens, waits for it.
  static void reserve_log(X const&, routing_log const&) {}
  static void read_log(X const&, routing_log&, std::int64_t) {}
};

}  // namespace finegrain::inline FINEGRAIN_ABI
