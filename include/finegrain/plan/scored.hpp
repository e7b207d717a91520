// scored: an expression under a loss. Forward, loss and backward are one pass, so that what only
// the loss reads, the logits of a vocabulary, is made some tokens at a time and never stored whole.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

#include "compose.hpp"
#include "stages.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A loss is a sum over tokens, and is asked for some of them at a time:
///
///   double operator()(X const& on, std::int64_t first, matrix<S const> y, matrix<S> dy) const;
///
/// is the sum over the rows of y, which are the outputs of tokens first, first + 1, ..., and writes
/// its gradient to dy unless that is empty. dy may be y itself, and is where memory matters; but not
/// in a trainer (train/objective.hpp).
template <class L, class X, class S = typename X::scalar>
concept Loss = requires(L const& loss, X const& on, matrix<S const> y, matrix<S> dy) {
  { loss(on, std::int64_t{}, y, dy) } -> std::convertible_to<double>;
};

/// Tokens whose logits over so many classes are made at a time. Each chunk reads the weights twice,
/// and reads and writes their gradient once: with 256 rows that is a product's own traffic, for
/// that is as many as it adds up at a time anyway; with 64 the pass takes a tenth longer. More rows
/// make tasks enough for all threads where classes are few, and are taken while place<X>::chunk_bytes hold them.
/// Fewer are taken where 256 would need more than four times that; from D = 64 on, a head holds more
/// for its weights, gradient and moments anyway. Threads have no say: bits must not depend on them.
template <class X>
constexpr std::int64_t chunk_rows(std::int64_t classes) {
  constexpr std::int64_t whole = 256, least = 64;
  constexpr std::int64_t plenty = place<X>::chunk_bytes, most = place<X>::chunk_most;
  std::int64_t const row =
      std::max<std::int64_t>(classes, 1) * static_cast<std::int64_t>(sizeof(typename X::scalar));
  if (whole * row > 4 * plenty) return std::max(4 * plenty / row / least, std::int64_t{1}) * least;
  return std::clamp(plenty / row / whole, std::int64_t{1}, most / whole) * whole;
}

/// The sum of a loss over y (T, Out) = x (T, In) . w (Out, In)^T, made in `chunk` (rows, Out), so
/// many tokens at a time as that has rows. Unless dw is empty, also dw = or += dy^T . x and
/// dx = dy . w, where dy, the loss's gradient, takes the place of y in the chunk.
template <class X, Loss<X> L, class S = typename X::scalar>
double score_product(X const& on, matrix<S const> x, matrix<S const> w, L const& loss, matrix<S> dw,
                     gradients mode, matrix<S> dx, matrix<S> chunk) {
  double total = 0;
  std::int64_t first = 0;
  do {  // without tokens once too: dw is then 0
    std::int64_t const rows = std::min(chunk.rows, x.rows - first);
    matrix<S const> const part = x.middle_rows(first, rows);
    matrix<S> const y = chunk.middle_rows(0, rows);
    linear_forward(on, part, w, y);
    total += loss(on, first, matrix<S const>(y), dw.data ? y : matrix<S>{});
    if (dw.data)
      linear_backward(on, part, w, y, dw, mode, dx.middle_rows(first, rows), gradients::overwrite);
    mode = gradients::accumulate;
    first += rows;
  } while (first < x.rows);
  return total;
}

/// How executor X computes E under a loss. As a plan it has saved and scratch, and in place of
/// forward and backward
///
///   double run(pass<X>, W const& w, saved const&, matrix<S const> x, Loss const&, V const& dw,
///              matrix<S> dx);
///
/// the sum of the loss; dw and dx are made when the extent says that it is training. rows(tokens) is
/// how many tokens the loss is asked for at a time.
///
/// What has a plan of its own is run by that plan, forward and backward, its output in between.
template <class X, Expr E>
struct scored {
  using S = typename X::scalar;
  using whole = plan<X, E>;

  struct saved {
    typename whole::saved kept;
    matrix<S> y;  // (T, out), then its gradient
    constexpr saved(arena& memory, extent e)
        : kept(memory, e), y(memory.matrix<S>(e.tokens, out_width<E>())) {}
  };
  using scratch = typename whole::scratch;
  /// Of so many tokens, those that the loss is asked for at a time.
  static constexpr std::int64_t rows(std::int64_t tokens) { return tokens; }

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const& s, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    bool const training = p.extent.training;
    whole::forward(p, w, s.kept, x, s.y);
    double const total = loss(p.on, 0, matrix<S const>(s.y), training ? s.y : matrix<S>{});
    if (training) whole::backward(p, w, s.kept, x, s.y, dw, dx);
    return total;
  }
};

/// A name that stands for its expression's plan.
template <class X, Named E>
requires detail::composes<X, E>
struct scored<X, E> : scored<X, detail::inner_t<E>> {
};

/// a | b: b under the loss, between a's forward and a's backward; unless b works in place, where y is
/// kept already.
template <class X, Expr A, Expr B>
requires(detail::composes<X, then<A, B>> && !InPlace<plan<X, B>>) struct scored<X, then<A, B>> {
  using S = typename X::scalar;
  using first = plan<X, A>;
  using rest = scored<X, B>;
  static constexpr int width = out_width<A>();

  using memory = detail::then_memory<S, first, rest, width>;
  using saved = typename memory::saved;
  using scratch = typename memory::scratch;
  static constexpr std::int64_t rows(std::int64_t tokens) { return rest::rows(tokens); }

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const& s, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    bool const training = p.extent.training;
    matrix<S> const dmiddle = p.scratch.template matrix<S>(training ? p.extent.tokens : 0, width);
    first::forward(p, w.a, s.a, x, s.middle);
    double const total = rest::run(p, w.b, s.b, s.middle, loss, dw.b, dmiddle);
    if (training) first::backward(p, w.a, s.a, x, dmiddle, dw.a, dx);
    return total;
  }
};

namespace detail {

/// A product at the end: chunk by chunk.
template <class X, int Out>
struct scored_product {
  using S = typename X::scalar;
  using saved = nothing;
  struct scratch {
    matrix<S> chunk;
    constexpr scratch(arena& memory, extent e) : chunk(memory.matrix<S>(rows(e.tokens), Out)) {}
  };
  static constexpr std::int64_t rows(std::int64_t tokens) {
    return std::min(tokens, chunk_rows<X>(Out));
  }

  template <class W, class V, Loss<X> L>
  static double run(pass<X> p, W const& w, saved const&, matrix<S const> x, L const& loss,
                    V const& dw, matrix<S> dx) {
    scratch const t(p.scratch, p.extent);
    return score_product(p.on, x, matrix<S const>(w.weight), loss,
                         p.extent.training ? dw.weight : matrix<S>{}, p.gradients, dx, t.chunk);
  }
};

/// Whether a stage's plan is the library's: one product, and nothing else.
template <class X, class E>
inline constexpr bool is_product = std::is_base_of_v<linear_plan<X>, plan<X, E>>;

}  // namespace detail

template <class X, int D, int V>
requires detail::is_product<X, head<D, V>>
struct scored<X, head<D, V>> : detail::scored_product<X, V> {
};
template <class X, int In, int Out>
requires detail::is_product<X, linear<In, Out>>
struct scored<X, linear<In, Out>> : detail::scored_product<X, Out> {
};

}  // namespace finegrain::inline FINEGRAIN_ABI
