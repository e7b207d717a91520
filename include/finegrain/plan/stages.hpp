// Plans of the simple stages, for every executor: what each saves, and which functions it calls.
//
// A backend supplies the functions, overloaded on its executor: rmsnorm_forward(on, ...) in its
// norm.hpp, linear_... in linear.hpp, embedding_... in embed.hpp, rotate and attend_... in
// attention.hpp. They take views and run-time sizes and can be called without the algebra.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

template <class X, int D>
struct plan<X, rmsnorm<D>> {
  using S = typename X::scalar;
  struct saved {
    typename place<X>::sum* inverse_rms;  // (T)
    constexpr saved(arena& memory, extent e)
        : inverse_rms(memory.take<typename place<X>::sum>(e.tokens)) {}
  };
  using scratch = nothing;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    rmsnorm_forward(p.on, x, w.gain, typename place<X>::sum(rmsnorm<D>::epsilon), y, s.inverse_rms);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    rmsnorm_backward(p.on, x, w.gain, s.inverse_rms, dy, dw.gain, p.gradients, dx);
  }
};

namespace detail {

template <class X>
struct linear_plan {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;

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
inline void check_table_ids(id_list ids, std::int64_t tokens, std::int64_t rows) {
  if (static_cast<std::int64_t>(ids.size()) != tokens)
    throw invalid_argument("the batch has %lld token ids for %lld tokens",
                           static_cast<long long>(ids.size()), static_cast<long long>(tokens));
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || ids[t] >= rows)
      throw invalid_argument("token %lld has the id %d; the embedding's table has %lld rows",
                             static_cast<long long>(t), static_cast<int>(ids[t]),
                             static_cast<long long>(rows));
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

template <class X, int D, int Heads, int KvHeads, int HeadDim>
struct plan<X, attention<D, Heads, KvHeads, HeadDim>> {
  using S = typename X::scalar;
  using E = attention<D, Heads, KvHeads, HeadDim>;
  static constexpr heads shape{Heads, KvHeads, HeadDim};
  static constexpr rotary turned{HeadDim, E::theta};
  static constexpr int q_width = Heads * HeadDim, kv_width = KvHeads * HeadDim;

  struct saved {
    matrix<S> q, k, v;  // (T, heads * dim), q and k with their positions turned in
    matrix<S> mixed;    // (T, query heads * dim)
    matrix<typename place<X>::sum> log_weight;  // (T, query heads) log of the sum of exp(scores)
    constexpr saved(arena& memory, extent e)
        : q(memory.matrix<S>(e.tokens, q_width)),
          k(memory.matrix<S>(e.tokens, kv_width)),
          v(memory.matrix<S>(e.tokens, kv_width)),
          mixed(memory.matrix<S>(e.tokens, q_width)),
          log_weight(memory.matrix<typename place<X>::sum>(e.tokens, Heads)) {}
  };
  struct scratch {
    matrix<S> dq, dk, dv, dmixed;
    constexpr scratch(arena& memory, extent e)
        : dq(memory.matrix<S>(e.training ? e.tokens : 0, q_width)),
          dk(memory.matrix<S>(e.training ? e.tokens : 0, kv_width)),
          dv(memory.matrix<S>(e.training ? e.tokens : 0, kv_width)),
          dmixed(memory.matrix<S>(e.training ? e.tokens : 0, q_width)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    earlier const past = p.past();
    linear_forward(p.on, x, w.query, s.q);
    linear_forward(p.on, x, w.key, s.k);
    linear_forward(p.on, x, w.value, s.v);
    rotate(p.on, p.batch, past, turned, s.q);
    rotate(p.on, p.batch, past, turned, s.k);
    matrix<S> const keys = with_earlier(p, s.k), values = with_earlier(p, s.v);
    attend_forward(p.on, shape, p.batch, past, s.q, keys, values, s.mixed, s.log_weight);
    linear_forward(p.on, s.mixed, w.output, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, gradients::overwrite);
    attend_backward(p.on, shape, p.batch, s.q, s.k, s.v, s.mixed, s.log_weight, t.dmixed, t.dq,
                    t.dk, t.dv);
    unrotate(p.on, p.batch, turned, t.dq);
    unrotate(p.on, p.batch, turned, t.dk);
    linear_backward(p.on, x, w.query, t.dq, dw.query, mode, dx, gradients::overwrite);
    linear_backward(p.on, x, w.key, t.dk, dw.key, mode, dx, gradients::accumulate);
    linear_backward(p.on, x, w.value, t.dv, dw.value, mode, dx, gradients::accumulate);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
