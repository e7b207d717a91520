// plan: how one executor computes one expression. What is here is what a plan's author needs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "../base/parallel.hpp"
#include "../expr/layers.hpp"
#include "extent.hpp"
#include "place.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The extent of an executor's pass over so many tokens.
template <class X>
extent extent_on(X const& on, std::int64_t tokens, bool training = false) {
  extent e{tokens, place<X>::workers(on), training};
  if constexpr (requires { on.products; }) e.kept = on.products;
  return e;
}

/// The cache of a network on X.
template <class X>
using cache_of = typename place<X>::cache;

/// What a pass carries to every plan below it. Copied, never shared: scratch that a plan takes
/// from its copy is free again when it returns.
template <class X>
struct pass {
  X const& on;  // the executor: on.threads(tasks, body)
  finegrain::batch const& batch;
  arena scratch;  // memory that lasts until the plan returns
  finegrain::extent extent;
  finegrain::gradients gradients = finegrain::gradients::overwrite;
  cache_of<X>* cache = nullptr;               // generation: earlier tokens' keys and values
  std::span<std::int64_t const> wanted = {};  // of a plan that picks_rows: the rows of y, or all

  earlier past() const { return cache ? cache->past() : earlier{}; }
};

/// Copies each sequence's rows to its place in a part of a cache, behind those that are `past`.
template <class X>
requires(place<X>::here) void keep_rows(X const& on, batch const& b, earlier const& past,
                                        matrix<typename X::scalar const> from,
                                        matrix<typename X::scalar> to) {
  on.threads(b.sequences(), [&](std::int64_t s, int) {
    std::int64_t const first = past.first_row(b, s) + past.length(s) - b.begin(s);
    for (std::int64_t t = b.begin(s); t < b.end(s); ++t)
      std::copy_n(from.row(t), from.cols, to.row(first + t));
  });
}
/// Rows that a stage has made of the batch's tokens, with those that it made of earlier ones: token j
/// of sequence s is row past.first_row(batch, s) + j. All of a cache's part, or the rows themselves.
template <class X, class M>
M with_earlier(pass<X> const& p, M rows) {
  if (!p.cache) return rows;
  matrix<typename X::scalar> const all = p.cache->take(rows.cols);
  std::int64_t const capacity = p.cache->capacity;
  for (auto& c : p.cache->copies) {
    if (c.made >= p.cache->used) continue;  // and `from` may have been written since
    place<X>::copy(p.on, all.row(c.from * capacity), c.length * all.cols, all.row(c.to * capacity));
    c.made = p.cache->used;
  }
  keep_rows(p.on, p.batch, p.past(), rows, all);
  return all;
}

/// plan<X, E> says how executor X computes expression E. A plan has
///
///   struct saved   { constexpr saved(arena&, extent); };    what forward leaves for backward
///   struct scratch { constexpr scratch(arena&, extent); };  what each of them needs meanwhile
///   static void forward (pass<X>, W const& w, saved const&, matrix<S const> x, matrix<S> y);
///   static void backward(pass<X>, W const& w, saved const&, matrix<S const> x,
///                        matrix<S const> dy, V const& dw, matrix<S> dx);
///
/// with S = X::scalar, w = weights<E, S const>, dw = weights<E, S>. x is (T, in), y is (T, out);
/// neither overlaps the other, unless the plan is in_place. backward is given the x of forward. It
/// writes dx, all of it, and dw, all of it, or adds to dw: pass.gradients says. dx is an empty view
/// where x is token ids. A plan allocates nothing, and gives a token the same bits whatever else is
/// in the batch.
///
/// A plan for a larger pattern is a fusion: it is a specialisation, and must equal the composed
/// plan.
template <class X, class E>
struct plan {
  static_assert(sizeof(X) == 0,
                "this executor has no plan for this expression; include the backend's header or "
                "specialise finegrain::plan");
};

/// Whether a plan makes as many rows of y as x has, however many tokens the pass has.
template <class Plan>
concept AnyRows = Plan::any_rows;
/// Whether it makes no more rows of y than the pass wants.
template <class Plan>
concept PicksRows = Plan::picks_rows;
/// Whether y may be x. Backward then does not read x.
template <class Plan>
concept InPlace = Plan::in_place;

/// For a plan that saves nothing, or needs no scratch.
struct nothing {
  constexpr nothing(arena&, extent) {}

 private:
  // A member, since g++ takes a reference to an object without any for one to unwritten memory.
  [[maybe_unused]] bool none_ = true;
};

/// Bytes of a plan's saved or scratch memory.
template <class Memory>
constexpr std::int64_t memory_bytes(extent e) {
  arena counting;
  static_cast<void>(Memory(counting, e));
  return counting.peak();
}

/// Bytes that a training step keeps from forward to backward, or that inference needs for what
/// one stage hands to the next.
template <class X, Expr E>
constexpr std::int64_t saved_bytes(extent e) {
  return memory_bytes<typename plan<X, E>::saved>(e);
}
/// Bytes that a pass needs while it runs.
template <class X, Expr E>
constexpr std::int64_t scratch_bytes(extent e) {
  return memory_bytes<typename plan<X, E>::scratch>(e);
}

namespace detail {

/// body(t, worker) for every row, some rows a task.
template <std::int64_t Some = 32, class X, class Body>
void for_rows(X const& on, std::int64_t rows, Body&& body) {
  on.threads(ceil_div(rows, Some), [&](std::int64_t task, int worker) {
    for (std::int64_t t = task * Some; t < std::min(rows, (task + 1) * Some); ++t) body(t, worker);
  });
}

// Formulas of one number, which do not overflow.
template <class S>
S softplus(S z) {
  return std::max(z, S(0)) + math::log1p(math::exp(-math::abs(z)));
}
template <class S>
S logistic(S z) {
  return z < 0 ? math::exp(z) / (1 + math::exp(z)) : 1 / (1 + math::exp(-z));
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
