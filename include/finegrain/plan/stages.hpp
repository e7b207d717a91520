// Plans of the simple stages, for every executor: what each saves, and which functions it calls.
//
// A backend supplies the functions, overloaded on its executor: rmsnorm_forward(on, ...) in its
// norm.hpp, linear_... in linear.hpp, embedding_... in embed.hpp. They take views and run-time sizes
// and can be called without the algebra.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "../expr/tied.hpp"
#include "plan.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

template <class X, int D, real_number Epsilon>
struct plan<X, rmsnorm<D, Epsilon>> {
  using S = typename X::scalar;
  struct saved {
    typename place<X>::sum* inverse_rms;  // (T)
    constexpr saved(arena& memory, extent e)
        : inverse_rms(memory.take<typename place<X>::sum>(e.tokens)) {}
  };
  using scratch = nothing;
  static constexpr bool any_rows = true;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    rmsnorm_forward(p.on, x, w.gain, typename place<X>::sum(Epsilon.value), y, s.inverse_rms);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    rmsnorm_backward(p.on, x, w.gain, s.inverse_rms, dy, dw.gain, p.gradients, dx);
  }
};

/// to = scale * from; they may be one.
template <class X, class S = typename X::scalar>
void scale_rows(X const& on, matrix<S const> from, double scale, matrix<S> to) {
  auto const factor = static_cast<S>(scale);
  detail::for_rows(on, to.rows, [&](std::int64_t t, int) {
    for (std::int64_t c = 0; c < from.cols; ++c) to(t, c) = factor * from(t, c);
  });
}

template <class X, int D, real_number Factor>
struct plan<X, times<D, Factor>> {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;
  static constexpr bool in_place = true;

  template <class W>
  static void forward(pass<X> p, W const&, saved const&, matrix<S const> x, matrix<S> y) {
    scale_rows(p.on, x, Factor.value, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const&, saved const&, matrix<S const>, matrix<S const> dy,
                       V const&, matrix<S> dx) {
    scale_rows(p.on, dy, Factor.value, dx);
  }
};

/// A plan of residual(a | times) by one, Of, that reads weights as residual(a) has them.
template <class X, class Of>
struct without_times : Of {
  using S = typename X::scalar;

  template <class W>
  static void forward(pass<X> p, W const& w, typename Of::saved const& s, matrix<S const> x,
                      matrix<S> y) {
    Of::forward(p, w.a, s, x, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, typename Of::saved const& s, matrix<S const> x,
                       matrix<S const> dy, V const& dw, matrix<S> dx) {
    Of::backward(p, w.a, s, x, dy, dw.a, dx);
  }
};

namespace detail {

template <class X>
struct linear_plan {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;
  static constexpr bool any_rows = true;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const&, matrix<S const> x, matrix<S> y) {
    linear_forward(p.on, x, w.weight, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const&, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    linear_backward(p.on, x, w.weight, dy, dw.weight, p.gradients, dx, gradients::overwrite);
  }
};

}  // namespace detail

template <class X, int In, int Out>
struct plan<X, linear<In, Out>> : detail::linear_plan<X> {};
template <class X, int D, int V>
struct plan<X, head<D, V>> : detail::linear_plan<X> {};

namespace detail {
/// What an executor of the host checks of an embedding's ids: one a token, each a row of its table.
inline void check_table_ids(std::span<std::int32_t const> ids, std::int64_t tokens,
                            std::int64_t rows) {
  if (static_cast<std::int64_t>(ids.size()) != tokens)
    throw invalid_argument("the batch has %lld token ids for %lld tokens",
                           detail::shown(ids.size()), detail::shown(tokens));
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || ids[t] >= rows)
      throw invalid_argument("token %lld has the id %d; the embedding's table has %lld rows",
                             detail::shown(t), static_cast<int>(ids[t]), detail::shown(rows));
}
}  // namespace detail

template <class X, int V, int D>
struct plan<X, embedding<V, D>> {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const&, matrix<S const>, matrix<S> y) {
    embedding_forward(p.on, p.batch.ids, w.table, y);
  }
  template <class W, class V2>
  static void backward(pass<X> p, W const&, saved const&, matrix<S const>, matrix<S const> dy,
                       V2 const& dw, matrix<S>) {
    embedding_backward(p.on, p.batch.ids, dy, dw.table, p.gradients);
  }
};

template <class X, int V, int D>
struct plan<X, detail::tied_embedding<V, D>> : plan<X, embedding<V, D>> {
  using S = typename X::scalar;
  using rows = plan<X, embedding<V, D>>;

  template <class W, class V2>
  static void backward(pass<X> p, W const& w, typename rows::saved const& s, matrix<S const> x,
                       matrix<S const> dy, V2 const& dw, matrix<S> dx) {
    p.gradients = gradients::accumulate;
    rows::backward(p, w, s, x, dy, dw, dx);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
