// What a caller of a network can get wrong, found before anything is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../expr/clocked.hpp"
#include "../expr/cost.hpp"
#include "../plan/place.hpp"
#include "../plan/plan.hpp"
#include "../plan/routing.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

constexpr long long shown(std::int64_t n) { return static_cast<long long>(n); }

/// A network that has fewer numbers than its expression's weights has given them away.
inline void check_holds(std::int64_t numbers, std::int64_t needed) {
  if (numbers < needed)
    throw invalid_argument("this network was moved from: its weights are another's now");
}

template <class S>
void check_shape(char const* what, matrix<S> m, std::int64_t rows, std::int64_t cols) {
  if (m.rows != rows || m.cols != cols)
    throw invalid_argument("%s is %lld x %lld; this call needs %lld x %lld", what, shown(m.rows),
                           shown(m.cols), shown(rows), shown(cols));
  if (rows > 1 && m.stride < cols)
    throw invalid_argument("the rows of %s are %lld numbers apart and %lld long", what,
                           shown(m.stride), shown(cols));
  if (!m.data && m.size() > 0) throw invalid_argument("%s has no memory", what);
}

/// Columns of one matrix that lie beside one another do not share memory; rows that interleave do.
template <class S>
void check_apart(char const* one, matrix<S const> a, char const* other, matrix<S const> b) {
  if (a.size() == 0 || b.size() == 0) return;
  auto const begin = [](matrix<S const> m) { return reinterpret_cast<std::uintptr_t>(m.data); };
  auto const end = [](matrix<S const> m) {
    return reinterpret_cast<std::uintptr_t>(m.row(m.rows - 1) + m.cols);
  };
  if (begin(a) >= end(b) || begin(b) >= end(a)) return;
  if (a.stride == b.stride && a.stride > 0) {  // that of a row alone may be any
    auto const distance = static_cast<std::int64_t>(begin(b) - begin(a));  // may be negative
    std::int64_t const row = a.stride * static_cast<std::int64_t>(sizeof(S));
    std::int64_t const column = (distance % row + row) % row / static_cast<std::int64_t>(sizeof(S));
    if (column >= a.cols && column + b.cols <= a.stride) return;
  }
  throw invalid_argument("%s and %s share memory", one, other);
}

template <class X>
void check_sequences(batch const& b) {
  if (!b.starts.empty() && place<X>::readable(b.starts.data())) {
    bool rising = b.starts.size() > 1 && b.starts.front() == 0 && b.starts.back() == b.tokens;
    for (std::size_t i = 1; i < b.starts.size(); ++i) rising &= b.starts[i - 1] <= b.starts[i];
    if (!rising)
      throw invalid_argument("the batch's sequence starts must rise from 0 to %lld",
                             shown(b.tokens));
  }
  if (!b.positions.empty() && static_cast<std::int64_t>(b.positions.size()) != b.tokens)
    throw invalid_argument("the batch has %lld tokens and %lld positions", shown(b.tokens),
                           shown(static_cast<std::int64_t>(b.positions.size())));
}

/// Whether a cache, of `width` numbers a token, has room for the batch: sequence by sequence.
template <class X>
void check_cache(batch const& b, std::int64_t width, cache_of<X> const& cache) {
  if (!cache.fits(width))
    throw invalid_argument("the cache is not this network's: use make_cache()");
  if (b.sequences() != cache.sequences())
    throw invalid_argument(
        "the cache and the batch differ in their number of sequences: %lld and %lld",
        shown(cache.sequences()), shown(b.sequences()));
  if (b.sequences() > 1 && !place<X>::readable(b.starts.data()))
    throw invalid_argument(
        "with a cache of several sequences, the host must be able to read starts");
  for (std::int64_t s = 0; s < b.sequences(); ++s) {
    std::int64_t const more = b.length(s), length = cache.lengths[static_cast<std::size_t>(s)];
    if (more > cache.capacity - length)
      throw invalid_argument(
          "the cache has room for %lld tokens of a sequence; sequence %lld has %lld, and %lld more "
          "do not fit",
          shown(cache.capacity), shown(s), shown(length), shown(more));
  }
}

/// Hash routers read token ids, in a network of numbers too.
template <class X>
void check_ids(batch const& b, int vocabulary) {
  if (static_cast<std::int64_t>(b.ids.size()) != b.tokens)
    throw invalid_argument(
        "hash routing needs the batch's token ids: there are %lld for %lld tokens",
        shown(static_cast<std::int64_t>(b.ids.size())), shown(b.tokens));
  if (!place<X>::readable(b.ids.data())) return;
  for (std::int32_t id : b.ids)
    if (id < 0 || id >= vocabulary)
      throw invalid_argument("token id %d is not in the router's table of %d", id, vocabulary);
}

/// Whether a router can do what is asked, and the log's report number `at` is its.
template <class X>
void check_router(config const& c, batch const& b, bool training, std::size_t at) {
  check_request(c, b.routing, training);
  place<X>::check(c, b.routing, training);
  if (b.tokens > INT32_MAX / (slots(c, b.routing) + 1))  // slots are numbered with 32 bits
    throw invalid_argument("a batch of %lld tokens with %d experts each is too large",
                           shown(b.tokens), slots(c, b.routing));
  if (c.selection == selection::hash) check_ids<X>(b, c.vocabulary);
  if (!b.log) return;
  if (b.log->layers.size() <= at ||
      b.log->layers[at].load.size() != static_cast<std::size_t>(c.routed))
    throw invalid_argument("the routing log is not this network's: use make_log()");
  routing_report const& report = b.log->layers[at];
  if (!report.experts.empty() &&
      static_cast<std::int64_t>(report.experts.size()) < b.tokens * slots(c, b.routing))
    throw invalid_argument("the routing log has no room for the choices of %lld tokens",
                           shown(b.tokens));
}

/// Whether every router of E can do what is asked, and the log is one of E's. A rule and jitter are
/// asked of those whose config has them: there must be one.
template <Expr E, class X>
void check_routing(batch const& b, bool training) {
  std::size_t routers = 0;
  bool ruled = false, jittered = false;
  leaves<E>::visit([&]<Expr L>(L) {
    if constexpr (is_router<L>) {
      check_router<X>(L::layer, b, training, routers++);
      ruled |= L::layer.selection == selection::rule;
      jittered |= L::layer.jitter;
    }
  });
  if (routers > 0 && b.routing.rule && !ruled)
    throw invalid_argument("a routing rule is for configs with selection::rule: here is none");
  if (routers > 0 && b.routing.jitter > 0 && !jittered)
    throw invalid_argument("jitter needs a config that has it: .jitter = true");
}

/// Everything about one call of a network of E but where its output goes.
template <Expr E, class X>
void check_input(batch const& b, matrix<typename X::scalar const> x, bool training,
                 cache_of<X> const* cache = nullptr) {
  constexpr int in = in_width<E>();
  if (b.tokens < 0) throw invalid_argument("a batch of %lld tokens", shown(b.tokens));
  if constexpr (in == ids) {
    if (static_cast<std::int64_t>(b.ids.size()) != b.tokens)
      throw invalid_argument("the batch has %lld tokens and %lld token ids", shown(b.tokens),
                             shown(static_cast<std::int64_t>(b.ids.size())));
  } else {
    check_shape("x", x, b.tokens, in);
  }
  check_sequences<X>(b);
  check_routing<E, X>(b, training);
  if (b.times && !is_clocked<E>)
    throw invalid_argument("this network takes no times: a network of timed<E, X> does");
  if (cache) check_cache<X>(b, cache_width(E{}), *cache);
}

/// Everything about one call of a network of E.
template <Expr E, class X>
void check_call(batch const& b, matrix<typename X::scalar const> x,
                matrix<typename X::scalar const> y, bool training,
                cache_of<X> const* cache = nullptr) {
  if (b.tokens >= 0) check_shape("y", y, b.tokens, out_width<E>());
  check_input<E, X>(b, x, training, cache);
  if constexpr (in_width<E>() != ids) check_apart("x", x, "y", y);
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
