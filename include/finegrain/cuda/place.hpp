// place: where the numbers of cuda live, memory of the device, and how the host reaches them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <type_traits>
#include <vector>

#include "../plan/place.hpp"
#include "cached_rows.hpp"
#include "elementwise.hpp"
#include "executor.hpp"
#include "kv_cache.hpp"
#include "report.hpp"
#include "rules.hpp"
#include "supported.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What each is, plan/place.hpp says. What the host is given back it has waited for.
template <class T>
struct place<basic_cuda<T>> {
  using X = basic_cuda<T>;
  using sum = float;
  using cache = device_cache<T>;
  template <class U>
  using buffer = device_buffer<U>;

  static bool readable(void const* memory) { return device::runtime::readable(memory); }
  static int workers(X const&) { return 1; }
  static constexpr bool here = false;
  static constexpr std::int64_t border = alignment;
  static constexpr std::int64_t chunk_bytes = std::int64_t{512} << 20, chunk_most = 4096;

  static void reserve(X const& on, std::int64_t tokens) {
    if (on.context->token_losses.size() >= tokens) return;
    on.context->token_losses = device_buffer<float>(tokens);
    ++on.context->moves;
  }
  static constexpr std::int64_t staging_bytes(std::int64_t tokens) {
    arena counting;
    counting.take<std::int32_t>(tokens);
    counting.take<std::int64_t>(listed(tokens));
    counting.take<std::int64_t>(tokens);  // rows in a cache
    return counting.used() + alignment;
  }
  static batch staged(X const& on, batch const& b, arena memory, cache* kept = nullptr) {
    auto const copied = [&]<class N>(std::span<N const> list) {
      return of_host(list) ? uploaded(on, list, memory.take<N>(std::ssize(list))) : list;
    };
    batch made = b;
    made.ids = copied(std::span<std::int32_t const>(b.ids));
    made.positions = copied(b.positions);
    if (kept && kept->sequences() > 1) {
      seat(on, made, memory, *kept);
    } else {
      if (std::ssize(b.starts) + std::ssize(b.positions) > listed(b.tokens) &&
          readable(b.starts.data()))
        throw invalid_argument(
            "on cuda a batch of %lld tokens cannot have %lld sequences: leave out those that are "
            "empty",
            finegrain::detail::shown(b.tokens), finegrain::detail::shown(b.sequences()));
      made.starts = copied(b.starts);
    }
    if (b.log) reserve_log(on, *b.log);
    return made;
  }
  static void reserve_log(X const& on, routing_log const& log) {
    std::int64_t numbers = 0;
    for (auto const& layer : log.layers)
      numbers += device::router_report::numbers(std::ssize(layer.load));
    on.context->reserve_reports(numbers);
  }
  static id_list list(X const& on, buffer<std::int32_t>& memory, id_list const& from) {
    std::span<std::int32_t const> const ids = from;
    if (!of_host(ids)) return from;
    if (memory.size() < std::ssize(ids)) memory = buffer<std::int32_t>(std::ssize(ids));
    return uploaded(on, ids, memory.data());
  }
  static std::int64_t read(X const& on, std::int64_t const* from) { return number_at(on, from); }
  static parallel threads(X const&) { return default_threads(); }
  template <class N, class Make>
  static void write(X const& on, std::span<N> to, Make&& make) {
    finegrain::buffer<N> numbers(std::ssize(to));
    make(numbers.data(), threads(on));
    device::runtime::copy(to.data(), numbers.data(), device::bytes_of<N>(std::ssize(to)),
                          on.stream);
  }
  template <class N>
  static std::vector<std::remove_const_t<N>> fetched(X const& on, std::span<N> numbers) {
    std::vector<std::remove_const_t<N>> made(numbers.size());
    device::runtime::copy(made.data(), numbers.data(), device::bytes_of<N>(std::ssize(made)),
                          on.stream);
    return made;
  }
  static void store(X const& on, std::vector<T> const& from, std::span<T> to) {
    device::runtime::copy(to.data(), from.data(), device::bytes_of<T>(std::ssize(from)), on.stream);
  }
  static float const* seen(X const& on, std::vector<float>& memory, T const* from,
                           std::int64_t count) {
    std::vector<T> const numbers = fetched(on, span_of(from, count));
    memory.assign(numbers.size(), 0);
    std::transform(numbers.begin(), numbers.end(), memory.begin(),
                   [](T x) { return static_cast<float>(x); });
    return memory.data();
  }
  static void copy(X const& on, T const* from, std::int64_t count, T* to) {
    device::runtime::enqueue_copy(to, from, device::bytes_of<T>(count), on.stream);
  }
  static bool finite(X const& on, T const* from, std::int64_t count) {
    device_buffer<std::int32_t> const found(1);
    device::finite_numbers<T>::look(from, count, found.data(), on.stream);
    return number_at(on, found.data()) == 0;
  }
  static void clear(X const& on, buffer<T> const& numbers) {
    device::runtime::fill(numbers.data(), 0, numbers.bytes(), on.stream);
  }
  static bool records(X const& on) { return device::runtime::records(on.stream); }
  static void wait(X const& on) { device::runtime::synchronize(on.stream); }
  static void begin_total(X const& on) {
    device::runtime::fill(on.context->loss.data(), 0, sizeof(double), on.stream);
  }
  static double total(X const& on, double made) {
    return made + number_at(on, on.context->loss.data());
  }
  static void read_log(X const& on, routing_log& log, std::int64_t tokens) {
    wait(on);
    double* from = on.context->reports.get();
    for (std::size_t l = 0; l < std::min(log.next, log.layers.size()); ++l) {
      routing_report& to = log.layers[l];
      auto const routed = std::ssize(to.load);
      device::router_report(from, static_cast<int>(routed)).read(to);
      to.tokens = tokens;
      from += device::router_report::numbers(routed);
    }
  }
  static void check(config const& c, routing_request const& request) {
    if (char const* const sentence = device::unsupported(c)) throw invalid_argument("%s", sentence);
    if (request.rule && !detail::rule_as<cuda_routing_rule const*>(request.rule))
      throw invalid_argument("on cuda, a routing rule must be a cuda_routing_rule");
    if (request.balance.rule && !detail::rule_as<cuda_balance_rule const*>(request.balance.rule))
      throw invalid_argument("on cuda, a balance rule must be a cuda_balance_rule");
  }

 private:
  template <class N>
  static N number_at(X const& on, N const* from) {
    N number{};
    device::runtime::copy(&number, from, sizeof number, on.stream);
    return number;
  }
  /// Starts and positions that there is room for: of as many sequences as tokens, and a few.
  static constexpr std::int64_t listed(std::int64_t tokens) { return 2 * tokens + 16; }
  /// Whether a list is the host's.
  template <class N>
  static bool of_host(std::span<N const> list) {
    return !list.empty() && readable(list.data());
  }
  /// The list as a copy of it, in memory of the device that has room for it.
  template <class N>
  static std::span<N const> uploaded(X const& on, std::span<N const> list, N* to) {
    device::runtime::enqueue_copy(to, list.data(), device::bytes_of<N>(std::ssize(list)),
                                  on.stream);
    return {to, list.size()};
  }
  /// Finds the rows of a batch, whose starts are the host's, in a cache of several sequences.
  static void seat(X const& on, batch& b, arena& memory, cache& kept) {
    std::int64_t const sequences = kept.sequences();
    b.starts = uploaded(on, b.starts, kept.lists.data());
    auto const lengths = uploaded(on, kept.past().lengths, kept.lists.data() + sequences + 1);
    auto* const rows = memory.take<std::int64_t>(b.tokens);
    auto* const positions = b.positions.empty() ? memory.take<std::int64_t>(b.tokens) : nullptr;
    device::cached_rows<T>::find(b.starts.data(), lengths.data(), sequences, kept.capacity,
                                 b.tokens, rows, positions, on.stream);
    kept.rows = rows;
    if (positions) b.positions = {positions, static_cast<std::size_t>(b.tokens)};
  }
};

/// Copies each sequence's rows to its place in a part of a cache, behind those that are `past`.
template <class T>
void keep_rows(basic_cuda<T> const& on, batch const&, earlier const& past,
               std::type_identity_t<matrix<T const>> from, std::type_identity_t<matrix<T>> to) {
  device::cached_rows<T>::keep(from, past.rows, past.length(0), to, on.stream);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
