// What a caller of a network can get wrong, found before anything is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "../expr/cost.hpp"
#include "../expr/observed.hpp"
#include "../plan/place.hpp"
#include "../plan/plan.hpp"
#include "../plan/routing.hpp"
#include "../plan/stages.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// A network that has fewer numbers than its expression's weights has given them away.
inline void check_holds(std::int64_t numbers, std::int64_t needed) {
  if (numbers < needed)
    throw invalid_argument("this network was moved from: its weights are another's now");
}

/// A matrix of this shape, whose rows do not overlap, with memory.
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
                           shown(b.positions.size()));
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
        shown(b.ids.size()), shown(b.tokens));
  if (!place<X>::readable(b.ids.data())) return;
  for (std::int32_t id : b.ids)
    if (id < 0 || id >= vocabulary)
      throw invalid_argument("token id %d is not in the router's table of %d", id, vocabulary);
}

/// Refuses logs of other networks.
inline void check_log(bool own) {
  if (!own) throw invalid_argument("the routing log is not this network's: use make_log()");
}

/// Whether a router can do what is asked, and the logs' reports number `at` are its.
template <class X>
void check_router(config const& c, batch const& b, bool training, std::size_t at) {
  check_request(c, b.routing, training);
  place<X>::check(c, b.routing);
  if (b.tokens > INT32_MAX / (slots(c, b.routing) + 1))  // slots are numbered with 32 bits
    throw invalid_argument("a batch of %lld tokens with %d experts each is too large",
                           shown(b.tokens), slots(c, b.routing));
  if (c.selection == selection::hash) check_ids<X>(b, c.vocabulary);
  for (routing_log const* log : {static_cast<routing_log const*>(b.log), b.routing.earlier})
    check_log(!log || log->layers[at].load.size() == static_cast<std::size_t>(c.routed));
  if (!b.log) return;
  routing_report const& report = b.log->layers[at];
  if (!report.experts.empty() &&
      static_cast<std::int64_t>(report.experts.size()) < b.tokens * slots(c, b.routing))
    throw invalid_argument("the routing log has no room for the choices of %lld tokens",
                           shown(b.tokens));
}

/// The choice number `at` that comes with a batch, for a network's router number `router`.
template <class X>
void check_given(config const& c, batch const& b, std::size_t at, std::size_t router) {
  if (b.given.size() <= at)
    throw invalid_argument(
        "router %lld takes its experts and weights from the batch (selection::given), whose .given "
        "has "
        "%lld entries",
        shown(router), shown(b.given.size()));
  given_choice const& choice = b.given[at];
  int const k = slots(c, b.routing);
  check_shape("the batch's experts", choice.experts, b.tokens, k);
  check_shape("the batch's weights", choice.weights, b.tokens, k);
  if (choice.dweights.data) {
    check_shape("the weights' gradient", choice.dweights, b.tokens, k);
    check_apart<float>("the batch's weights", choice.weights, "their gradient", choice.dweights);
    for (given_choice const& other : b.given.first(at))
      check_apart<float>("the weights' gradient of one layer", choice.dweights, "that of another",
                         other.dweights);
  }
  if (choice.experts.size() == 0) return;
  if constexpr (place<X>::here)
    check_experts("the batch's routing", c.routed, choice.experts, -1);
  else if (place<X>::readable(choice.experts.data) || place<X>::readable(choice.weights.data) ||
           (choice.dweights.data && place<X>::readable(choice.dweights.data)))
    throw invalid_argument(
        "on cuda, the experts, weights and gradients of the batch's routing are in memory of the "
        "device");
}

/// What visits leaves: the one counts routers, the other lists their configs.
struct count_routers {
  std::size_t count = 0;
  template <Expr L>
  constexpr void operator()(L) {
    count += is_router<L>;
  }
};
struct list_routers {
  config const** next;
  template <Expr L>
  constexpr void operator()(L) {
    if constexpr (is_router<L>) *next++ = &L::layer;
  }
};
/// The configs of an expression's routers, in the order of the forward pass.
template <Expr E>
struct router_configs {
  static constexpr std::size_t count = [] {
    count_routers routers;
    leaves<E>::visit(routers);
    return routers.count;
  }();
  static constexpr std::array<config const*, count> list = [] {
    std::array<config const*, count> configs{};
    leaves<E>::visit(list_routers{configs.data()});
    return configs;
  }();
};

/// Token ids that all stages of an expression know.
template <Expr E>
constexpr std::int64_t least_vocabulary() {
  std::int64_t least = INT64_MAX;
  leaves<E>::visit([&]<Expr L>(L) { least = std::min<std::int64_t>(least, L::vocabulary); });
  return least;
}

/// What a call is held against: an expression as numbers, so that one body of code checks them all. Its
/// address tells networks apart, and executors too: their activations are of other types.
struct call_form {
  int in, out;
  std::int64_t vocabulary;
  std::int64_t cache;  // numbers a token
  bool clocked;
  std::span<config const* const> routers;
};
template <Expr E, class X>
inline constexpr call_form form_of{in_width<E>(),           out_width<E>(),
                                   least_vocabulary<E>(),   cache_width(E{}),
                                   is_observed<E, timings>, router_configs<E>::list};

/// Whether every router can do what is asked, and the log is theirs. A rule, jitter and balance losses are
/// asked of those that can have them: there must be one.
template <class X>
void check_routing(std::span<config const* const> routers, batch const& b, bool training) {
  bool ruled = false, jittered = false, moved = false;
  std::size_t given = 0;
  for (routing_log const* log : {static_cast<routing_log const*>(b.log), b.routing.earlier})
    check_log(!log || log->layers.size() == routers.size());
  for (std::size_t at = 0; at < routers.size(); ++at) {
    config const& c = *routers[at];
    check_router<X>(c, b, training, at);
    ruled |= c.selection == selection::rule;
    jittered |= c.jitter;
    moved |= c.has_router();
    if (c.selection == selection::given) check_given<X>(c, b, given++, at);
  }
  if (!routers.empty() && b.routing.rule && !ruled)
    throw invalid_argument("a routing rule is for configs with selection::rule: here is none");
  if (!routers.empty() && b.routing.jitter > 0 && !jittered)
    throw invalid_argument("jitter needs a config that has it: .jitter = true");
  if (given != b.given.size())
    throw invalid_argument(
        "the number of layers with selection::given is %lld; that of the batch's .given is %lld",
        shown(given), shown(b.given.size()));
  balance_losses const& loss = b.routing.balance;
  if (!routers.empty() && !moved && loss != balance_losses{.over = loss.over})
    throw invalid_argument("balance losses move a router, and here is none");
}

/// How many rows y has: what a batch wants, or all; or none, where it brings none to a call that
/// picks rows.
inline std::int64_t rows_made(batch const& b, std::int64_t brought, bool picks) {
  if (!b.wanted.empty()) return std::ssize(b.wanted);
  return picks && brought == 0 ? 0 : b.tokens;
}

/// The rows of y that a batch wants, where not all, of a call that picks them.
template <class X>
void check_wanted(batch const& b, bool picks) {
  if (b.wanted.empty()) return;
  if (!picks)
    throw invalid_argument(
        "only infer makes wanted rows alone, of a network that ends in `| linear`, `| head` or `| "
        "rmsnorm`");
  if (!place<X>::readable(b.wanted.data()))
    throw invalid_argument("the host must be able to read which rows are wanted");
  std::int64_t least = 0;
  for (std::int64_t row : b.wanted) {
    if (row < least || row >= b.tokens)
      throw invalid_argument("wanted rows must rise, and be of the batch's %lld", shown(b.tokens));
    least = row + 1;
  }
}

/// Whether a batch's activations, if it has some, are of this form and stay where they were.
inline void check_seen(call_form const& form, batch const& b) {
  if (b.seen && b.seen->network != &form)
    throw invalid_argument(
        "the batch's activations are not this network's: activations{net} are, of a network of "
        "watched<E, X>, until they are moved");
}

/// Everything about one call of a network but where its output goes. `picks`: whether it makes wanted
/// rows alone.
template <class X>
FINEGRAIN_ONE_COPY void check_input(call_form const& form, batch const& b,
                                    matrix<typename X::scalar const> x, bool training,
                                    cache_of<X> const* cache = nullptr, bool picks = false) {
  check_tokens(b.tokens);
  if (form.in != ids)
    check_shape("x", x, b.tokens, form.in);
  else if (x.size() > 0)
    throw invalid_argument("this network reads token ids: x must be empty, not %lld x %lld",
                           shown(x.rows), shown(x.cols));
  if ((form.in == ids || !b.ids.empty()) && static_cast<std::int64_t>(b.ids.size()) != b.tokens)
    throw invalid_argument("the batch has %lld tokens and %lld token ids", shown(b.tokens),
                           shown(b.ids.size()));
  if (form.in == ids && !b.ids.empty() && place<X>::readable(b.ids.data()))  // of others: NaN
    check_table_ids(b.ids, b.tokens, form.vocabulary);
  check_sequences<X>(b);
  check_wanted<X>(b, picks);
  check_routing<X>(form.routers, b, training);
  if (b.times && !form.clocked)
    throw invalid_argument("this network takes no times: a network of timed<E, X> does");
  check_seen(form, b);
  if (cache) check_cache<X>(b, form.cache, *cache);
}

/// Everything about one call of a network.
template <class X>
FINEGRAIN_ONE_COPY void check_call(call_form const& form, batch const& b,
                                   matrix<typename X::scalar const> x,
                                   matrix<typename X::scalar const> y, bool training,
                                   cache_of<X> const* cache = nullptr, bool picks = false) {
  if (b.tokens == 0 && form.in != ids && x.rows > 0)
    throw invalid_argument("x has %lld rows and the batch no tokens: say {.tokens = %lld}",
                           shown(x.rows), shown(x.rows));
  if (b.tokens >= 0) check_shape("y", y, rows_made(b, y.rows, picks), form.out);
  check_input<X>(form, b, x, training, cache, picks);
  if (form.in != ids) check_apart("x", x, "y", y);
}

/// Memory for the gradient of x: of x's shape, and apart from it.
template <class S>
FINEGRAIN_ONE_COPY void check_dx(matrix<S> dx, matrix<S const> x, std::int64_t tokens,
                                 std::int64_t in) {
  check_shape("dx", dx, tokens, in);
  check_apart<S>("x", x, "dx", dx);
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
