// cuda: the executor for NVIDIA GPUs from compute capability 8.0.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <memory>
#include <vector>

#include "../plan/plan.hpp"
#include "blas.hpp"
#include "buffer.hpp"
#include "cached_rows.hpp"
#include "clock.hpp"
#include "elementwise.hpp"
#include "kv_cache.hpp"
#include "loss.hpp"
#include "products.hpp"
#include "report.hpp"
#include "route.hpp"
#include "rules.hpp"
#include "supported.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace device {

/// What passes need beside their stream and their memory. Made with the executor, and shared by its
/// copies: passes of two copies must not overlap.
struct context {
  device::blas blas;
  device_buffer<double> loss{1}, loss_parts{squared_error_parts};
  device_buffer<std::int64_t> terms{1};  // of a loss, where the device counts them
  device_buffer<float> token_losses;
  device_buffer<std::int32_t> arrivals{arrivals_size};  // of router_state: zeros between passes
  /// Reports of the routers of one pass, one after the other, which kernels write.
  struct released {
    void operator()(double* memory) const { runtime::release_shared(memory); }
  };
  std::unique_ptr<double, released> reports;
  std::int64_t report_size = 0;  // numbers there is room for
  std::int64_t moves = 0;        // how many times any of this was allocated anew
  device::clock clock;           // of timed passes

  void reserve_reports(std::int64_t numbers) {
    if (numbers <= report_size) return;
    reports.reset(static_cast<double*>(runtime::allocate_shared(bytes_of<double>(numbers))));
    report_size = numbers;
    ++moves;
  }
};

}  // namespace device

/// Enqueues every pass on a stream of the caller's; nothing waits for the device but a loss, a log or
/// times that the host asks for, and no pass allocates, so that it can be captured in a graph. x, y,
/// weights and gradients are memory of the device; lists of token ids, starts and positions may be
/// the host's, from which they are copied as the pass begins. Weights, activations and gradients
/// are T; sums are f32.
template <class T>
struct basic_cuda {
  using scalar = T;
  CUstream_st* stream = nullptr;
  device::instructions use = device::instructions::all;
  /// Of experts that are frozen in fp8: bf16; or fp8, in which the inputs of their products are
  /// rounded too, where that is faster: on Hopper, for many tokens (cuda/fp8.hpp).
  format activations = format::bf16;
  std::shared_ptr<device::context> context = made();

  /// Throws cuda_error where there is no device, or it has no memory left.
  basic_cuda() = default;
  explicit basic_cuda(CUstream_st* stream) : stream(stream) {}

  /// The same with exact products: here there is one kind.
  basic_cuda const& exact() const { return *this; }

 private:
  static std::shared_ptr<device::context> made() {
    if (device::runtime::devices() == 0)
      throw cuda_error("there is no GPU, or its driver is older than this program's CUDA");
    auto const context = std::make_shared<device::context>();
    device::runtime::fill(context->arrivals.data(), 0, context->arrivals.bytes(), nullptr);
    device::runtime::synchronize(nullptr);
    return context;
  }
};
using cuda = basic_cuda<bf16>;

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
  static constexpr std::int64_t chunk_bytes = std::int64_t{512} << 20, chunk_most = 4096;

  static void reserve(X const& on, std::int64_t tokens) {
    if (on.context->token_losses.size() >= tokens) return;
    on.context->token_losses = device_buffer<float>(tokens);
    ++on.context->moves;
  }
  /// Starts and positions that there is room for: of as many sequences as tokens, and a few.
  static constexpr std::int64_t listed(std::int64_t tokens) { return 2 * tokens + 16; }
  static constexpr std::int64_t staging_bytes(std::int64_t tokens) {
    arena counting;
    counting.take<std::int32_t>(tokens);
    counting.take<std::int64_t>(listed(tokens));
    counting.take<std::int64_t>(tokens);  // rows in a cache
    return counting.used() + alignment;
  }
  static batch staged(X const& on, batch const& b, arena memory, cache* kept = nullptr) {
    auto const copied = [&]<class N>(std::span<N const> list) {
      if (list.empty() || !readable(list.data())) return list;
      auto const count = static_cast<std::int64_t>(list.size());
      N* const to = memory.take<N>(count);
      device::runtime::enqueue_copy(to, list.data(), device::bytes_of<N>(count), on.stream);
      return std::span<N const>(to, list.size());
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
  /// Finds the rows of a batch, whose starts are the host's, in a cache of several sequences.
  static void seat(X const& on, batch& b, arena& memory, cache& kept) {
    std::int64_t const sequences = kept.sequences(), bytes = sizeof(std::int64_t);
    std::int64_t *const starts = kept.lists.data(), *const lengths = starts + sequences + 1;
    device::runtime::enqueue_copy(starts, b.starts.data(), (sequences + 1) * bytes, on.stream);
    device::runtime::enqueue_copy(lengths, kept.lengths.data(), sequences * bytes, on.stream);
    b.starts = {starts, b.starts.size()};
    auto* const rows = memory.take<std::int64_t>(b.tokens);
    auto* const positions = b.positions.empty() ? memory.take<std::int64_t>(b.tokens) : nullptr;
    device::cached_rows<T>::find(starts, lengths, sequences, kept.capacity, b.tokens, rows,
                                 positions, on.stream);
    kept.rows = rows;
    if (positions) b.positions = {positions, static_cast<std::size_t>(b.tokens)};
  }
  static void reserve_log(X const& on, routing_log const& log) {
    std::int64_t numbers = 0;
    for (auto const& layer : log.layers)
      numbers += device::router_report::numbers(std::ssize(layer.load));
    on.context->reserve_reports(numbers);
  }
  static id_list list(X const& on, buffer<std::int32_t>& memory, id_list const& from) {
    if (from.empty() || !readable(from.data())) return from;
    auto const count = static_cast<std::int64_t>(from.size());
    if (memory.size() < count) memory = buffer<std::int32_t>(count);
    device::runtime::enqueue_copy(memory.data(), from.data(), device::bytes_of<std::int32_t>(count),
                                  on.stream);
    return std::span<std::int32_t const>(memory.data(), from.size());
  }
  static std::int64_t read(X const& on, std::int64_t const* from) {
    std::int64_t number = 0;
    device::runtime::copy(&number, from, sizeof number, on.stream);
    return number;
  }
  static parallel threads(X const&) { return default_threads(); }
  template <class Make>
  static void write(X const& on, buffer<T> const& to, Make&& make) {
    finegrain::buffer<T> numbers(to.size());
    make(numbers.data(), threads(on));
    device::runtime::copy(to.data(), numbers.data(), to.bytes(), on.stream);
  }
  static std::vector<T> fetched(X const& on, std::span<T const> numbers) {
    std::vector<T> made(numbers.size());
    device::runtime::copy(made.data(), numbers.data(), device::bytes_of<T>(std::ssize(made)),
                          on.stream);
    return made;
  }
  static void store(X const& on, std::vector<T> const& from, std::span<T> to) {
    device::runtime::copy(to.data(), from.data(), device::bytes_of<T>(std::ssize(from)), on.stream);
  }
  static float const* seen(X const& on, std::vector<float>& memory, T const* from,
                           std::int64_t count) {
    std::vector<T> const numbers = fetched(on, {from, static_cast<std::size_t>(count)});
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
    std::int32_t others = 0;
    device::runtime::copy(&others, found.data(), sizeof others, on.stream);
    return others == 0;
  }
  static void clear(X const& on, buffer<T> const& numbers) {
    device::runtime::fill(numbers.data(), 0, numbers.bytes(), on.stream);
  }
  static void wait(X const& on) { device::runtime::synchronize(on.stream); }
  static void begin_total(X const& on) {
    device::runtime::fill(on.context->loss.data(), 0, sizeof(double), on.stream);
  }
  static double total(X const& on, double made) {
    double loss = 0;
    device::runtime::copy(&loss, on.context->loss.data(), sizeof loss, on.stream);
    return made + loss;
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
  /// What is asked of a router that it cannot do.
  static void check(config const& c, routing_request const& request) {
    if (char const* const sentence = device::unsupported(c)) throw invalid_argument("%s", sentence);
    if (request.rule && !detail::rule_as<cuda_routing_rule const*>(request.rule))
      throw invalid_argument("on cuda, a routing rule must be a cuda_routing_rule");
    if (request.balance.rule && !detail::rule_as<cuda_balance_rule const*>(request.balance.rule))
      throw invalid_argument("on cuda, a balance rule must be a cuda_balance_rule");
  }
};

/// Copies each sequence's rows to its place in a part of a cache, behind those that are `past`.
template <class T>
void keep_rows(basic_cuda<T> const& on, batch const&, earlier const& past,
               std::type_identity_t<matrix<T const>> from, std::type_identity_t<matrix<T>> to) {
  device::cached_rows<T>::keep(from, past.rows, past.length(0), to, on.stream);
}

/// Two events of the stream around each node, which are read, and waited for, when all of a pass is
/// enqueued. So a node's time is the device's, with what the device waits for the host.
template <class T>
struct stopwatch<basic_cuda<T>> {
  using X = basic_cuda<T>;

  static std::size_t begin(pass<X> const& p, std::size_t row) {
    if (!p.batch.times) return 0;
    if (row == 0) {
      if (device::runtime::records(p.on.stream))
        throw invalid_argument("a pass that is recorded takes no times: nothing runs yet");
      p.on.context->clock.clear();
    }
    return p.on.context->clock.mark(p.on.stream);
  }
  static void end(pass<X> const& p, std::size_t row, timings::phase phase, std::size_t begun) {
    if (!p.batch.times) return;
    device::clock& clock = p.on.context->clock;
    clock.add(row, phase, begun, clock.mark(p.on.stream));
    if (row == 0) clock.read(*p.batch.times);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
