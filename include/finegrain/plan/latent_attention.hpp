// Latent attention's plan, for every executor.
//
// A training pass makes every head's keys and values, as the formula reads. One without a gradient
// moves the products with those matrices to the other side of the softmax: queries meet the latent
// vectors themselves, which are what a cache holds, and heads are all of one key-value head. The
// numbers are the same but for rounding. On the host all passes without a gradient do so, and have
// the same bits; on a device those that find earlier tokens in a cache (latent_room::expands).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "../expr/latent_attention.hpp"
#include "plan.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Of each row and each of `heads` heads, `columns` numbers: from column h * from_step of `from` to
/// column h * to_step of `to`.
template <class X>
requires(place<X>::here) void copy_heads(X const& on, int heads, int columns,
                                         matrix<typename X::scalar const> from, int from_step,
                                         matrix<typename X::scalar> to, int to_step) {
  detail::for_rows(on, to.rows, [&](std::int64_t r, int) {
    for (int h = 0; h < heads; ++h)
      std::copy_n(from.row(r) + h * from_step, columns, to.row(r) + h * to_step);
  });
}
/// `to` is the sum over heads of what is at column h * from_step.
template <class X>
requires(place<X>::here) void sum_heads(X const& on, int heads,
                                        matrix<typename X::scalar const> from, int from_step,
                                        matrix<typename X::scalar> to) {
  detail::for_rows(on, to.rows, [&](std::int64_t r, int) {
    std::fill_n(to.row(r), to.cols, typename X::scalar(0));
    for (int h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < to.cols; ++i) to(r, i) += from(r, h * from_step + i);
  });
}

/// What executors do differently, with the memory they need for it. This is for those whose memory
/// is the host's; others specialise it.
template <class X, int D, int Heads, latent N>
struct latent_room : nothing {
  using S = typename X::scalar;
  using sum = typename place<X>::sum;
  /// Whether keys and values are made in passes without a gradient, too, if nothing is past.
  static constexpr bool expands = false;
  /// Of so many tokens, those whose queries meet latent vectors at a time.
  static constexpr std::int64_t at_once(std::int64_t tokens) { return tokens; }

  using nothing::nothing;

  /// y = x W^T, of a weight as stored or frozen.
  template <class W>
  void product(X const& on, matrix<S const> x, W const& w, matrix<S> y) const {
    linear_forward(on, x, w, y);
  }
  void normalise_back(X const& on, matrix<S const> x, matrix<S const> gain, sum const* rms,
                      matrix<S const> dy, matrix<S> dgain, gradients mode, matrix<S> dx) const {
    rmsnorm_backward(on, x, gain, rms, dy, dgain, mode, dx);
  }
  void attend_back(X const& on, heads shape, batch const& b, matrix<S const> q, matrix<S const> k,
                   matrix<S const> v, matrix<S const> mixed, matrix<sum const> log_weight,
                   matrix<S const> dmixed, matrix<S> dq, matrix<S> dk, matrix<S> dv) const {
    attend_backward(on, shape, b, q, k, v, mixed, log_weight, dmixed, dq, dk, dv);
  }
  /// Of the batch's tokens from `first` on, as many as q has. Values are the first numbers of rows,
  /// (rows, shape.dim) as with_earlier has them, which all heads share.
  void attend_rows(X const& on, heads shape, batch const& b, earlier const& past, std::int64_t,
                   matrix<S const> q, matrix<S const> rows, matrix<S> mixed,
                   matrix<sum> log_weight) const {
    attend_forward(on, shape, b, past, q, rows, rows.middle_cols(0, shape.value), mixed,
                   log_weight);
  }
};

/// Besides the functions of plan/stages.hpp a backend supplies two products, one of each head:
///
///   latent_queries(on, heads, N, q, kv_b, to)    q (T, heads * (nope + rope)): into the first
///                                                kv_rank of each head's numbers of `to`
///                                                (T, heads * (kv_rank + rope))
///   latent_values(on, heads, N, from, kv_b, to)  from (T, heads * kv_rank) to (T, heads * value)
///
/// and, where its memory is not the host's, copy_heads, sum_heads and latent_room.
template <class X, int D, int Heads, latent N>
struct plan<X, latent_attention<D, Heads, N>> {
  using S = typename X::scalar;
  using E = latent_attention<D, Heads, N>;
  using sum = typename place<X>::sum;
  using room = latent_room<X, D, Heads, N>;
  static constexpr int query_dim = E::query_dim, row_dim = N.kv_rank + N.rope;
  static constexpr int kv_dim = N.nope + N.value;  // of a head, what kv_b makes
  static constexpr rotary query_turn{N.rope, E::theta, query_dim, true, N.yarn};
  static constexpr rotary key_turn{N.rope, E::theta, row_dim, true, N.yarn};

  struct saved {
    matrix<S> q_low, q_rows;  // (T, q_rank) before and behind the norm; empty if straight
    matrix<S> q;              // (T, Heads * query_dim), turned
    matrix<S> low;            // (T, kv_rank + rope): the latent vector before its norm
    matrix<S> rows;           // (T, kv_rank + rope): behind it, and the rotary key, turned
    sum *q_rms, *rms;         // (T) of both norms
    matrix<S> k, v;           // (T, Heads * query_dim), (T, Heads * value): if expanded
    matrix<S> mixed;          // (T, Heads * value)
    matrix<sum> log_weight;   // (T, Heads) log of the sum of exp(scores)
    constexpr saved(arena& memory, extent e)
        : q_low(memory.matrix<S>(E::straight ? 0 : e.tokens, N.q_rank)),
          q_rows(memory.matrix<S>(E::straight ? 0 : e.tokens, N.q_rank)),
          q(memory.matrix<S>(e.tokens, Heads * query_dim)),
          low(memory.matrix<S>(e.tokens, row_dim)),
          rows(memory.matrix<S>(e.tokens, row_dim)),
          q_rms(memory.take<sum>(E::straight ? 0 : e.tokens)),
          rms(memory.take<sum>(e.tokens)),
          k(memory.matrix<S>(expanded_rows(e), Heads * query_dim)),
          v(memory.matrix<S>(expanded_rows(e), Heads * N.value)),
          mixed(memory.matrix<S>(e.tokens, Heads * N.value)),
          log_weight(memory.matrix<sum>(e.tokens, Heads)) {}
  };
  struct scratch {
    matrix<S> latent_q, latent_mixed;  // (some, Heads * row_dim), (some, Heads * kv_rank)
    matrix<S> kv;                      // (T, Heads * kv_dim), and in backward its gradient
    matrix<S> dq, dk, dv, dmixed, drows, dlow, dq_rows, dq_low;
    latent_room<X, D, Heads, N> room;
    constexpr scratch(arena& memory, extent e)
        : scratch(memory, e, e.training ? 0 : room::at_once(e.tokens), e.training ? e.tokens : 0) {}

   private:
    constexpr scratch(arena& memory, extent e, std::int64_t some, std::int64_t trained)
        : latent_q(memory.matrix<S>(some, Heads * row_dim)),
          latent_mixed(memory.matrix<S>(some, Heads * N.kv_rank)),
          kv(memory.matrix<S>(expanded_rows(e), Heads * kv_dim)),
          dq(memory.matrix<S>(trained, Heads * query_dim)),
          dk(memory.matrix<S>(trained, Heads * query_dim)),
          dv(memory.matrix<S>(trained, Heads * N.value)),
          dmixed(memory.matrix<S>(trained, Heads * N.value)),
          drows(memory.matrix<S>(trained, row_dim)),
          dlow(memory.matrix<S>(trained, row_dim)),
          dq_rows(memory.matrix<S>(E::straight ? 0 : trained, N.q_rank)),
          dq_low(memory.matrix<S>(E::straight ? 0 : trained, N.q_rank)),
          room(memory, e) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    scratch const t(p.scratch, p.extent);
    earlier const past = p.past();
    if constexpr (E::straight) {
      t.room.product(p.on, x, w.q_proj, s.q);
    } else {
      t.room.product(p.on, x, w.q_a, s.q_low);
      rmsnorm_forward(p.on, s.q_low, w.q_a_norm, epsilon, s.q_rows, s.q_rms);
      t.room.product(p.on, s.q_rows, w.q_b, s.q);
    }
    rotate(p.on, p.batch, past, query_turn, s.q);
    t.room.product(p.on, x, w.kv_a, s.low);
    rmsnorm_forward(p.on, vectors(s.low), w.kv_a_norm, epsilon, vectors(s.rows), s.rms);
    copy_heads(p.on, 1, N.rope, behind(s.low), 0, behind(s.rows), 0);
    rotate(p.on, p.batch, past, key_turn, s.rows);
    matrix<S> const rows = with_earlier(p, s.rows);

    if constexpr (std::is_convertible_v<decltype(w.kv_b), matrix<S const>>) {
      if (p.extent.training || (room::expands && past.none())) {
        attend_expanded(p, w, s, t);
        return t.room.product(p.on, s.mixed, w.output, y);
      }
    }
    for (std::int64_t first = 0; first < x.rows; first += t.latent_q.rows)
      attend_latent(p, w, s, rows, past, first, t);
    t.room.product(p.on, s.mixed, w.output, y);
  }

  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    constexpr auto fresh = gradients::overwrite;
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, fresh);
    t.room.attend_back(p.on, expanded_heads(), p.batch, s.q, s.k, s.v, s.mixed, s.log_weight,
                       t.dmixed, t.dq, t.dk, t.dv);
    unrotate(p.on, p.batch, query_turn, t.dq);
    copy_heads(p.on, Heads, N.nope, t.dk, query_dim, t.kv, kv_dim);
    copy_heads(p.on, Heads, N.value, t.dv, N.value, from_column(t.kv, N.nope), kv_dim);
    sum_heads(p.on, Heads, from_column(t.dk, N.nope), query_dim, behind(t.drows));
    unrotate(p.on, p.batch, key_turn, t.drows);
    linear_backward(p.on, vectors(s.rows), w.kv_b, t.kv, dw.kv_b, mode, vectors(t.drows), fresh);
    t.room.normalise_back(p.on, vectors(s.low), w.kv_a_norm, s.rms, vectors(t.drows), dw.kv_a_norm,
                          mode, vectors(t.dlow));
    copy_heads(p.on, 1, N.rope, behind(t.drows), 0, behind(t.dlow), 0);
    linear_backward(p.on, x, w.kv_a, t.dlow, dw.kv_a, mode, dx, fresh);
    if constexpr (E::straight) {
      linear_backward(p.on, x, w.q_proj, t.dq, dw.q_proj, mode, dx, gradients::accumulate);
    } else {
      linear_backward(p.on, s.q_rows, w.q_b, t.dq, dw.q_b, mode, t.dq_rows, fresh);
      t.room.normalise_back(p.on, s.q_low, w.q_a_norm, s.q_rms, t.dq_rows, dw.q_a_norm, mode,
                            t.dq_low);
      linear_backward(p.on, x, w.q_a, t.dq_low, dw.q_a, mode, dx, gradients::accumulate);
    }
  }

 private:
  static constexpr auto epsilon = static_cast<sum>(E::epsilon);

  static double scale() { return query_turn.sharpness() / math::sqrt(double{query_dim}); }
  static heads expanded_heads() { return {Heads, Heads, query_dim, N.value, scale()}; }
  /// Rows of keys and values that a pass may make.
  static constexpr std::int64_t expanded_rows(extent e) {
    return e.training || room::expands ? e.tokens : 0;
  }
  template <class T>
  static matrix<T> from_column(matrix<T> m, std::int64_t column) {
    return m.middle_cols(column, m.cols - column);
  }
  /// Of rows, the columns without rotary positions, and those with them.
  template <class T>
  static matrix<T> vectors(matrix<T> m) {
    return m.middle_cols(0, N.kv_rank);
  }
  template <class T>
  static matrix<T> behind(matrix<T> m) {
    return m.middle_cols(N.kv_rank, N.rope);
  }

  /// Of tokens from `first` on: as many as there is room for.
  template <class W>
  static void attend_latent(pass<X> const& p, W const& w, saved const& s, matrix<S> rows,
                            earlier const& past, std::int64_t first, scratch const& t) {
    std::int64_t const count = std::min(s.q.rows - first, t.latent_q.rows);
    matrix<S> const q = s.q.middle_rows(first, count), to = t.latent_q.middle_rows(0, count),
                    mixed = t.latent_mixed.middle_rows(0, count);
    latent_queries(p.on, Heads, N, q, w.kv_b, to);
    copy_heads(p.on, Heads, N.rope, from_column(q, N.nope), query_dim, behind(to), row_dim);
    t.room.attend_rows(p.on, {Heads, 1, row_dim, N.kv_rank, scale()}, p.batch, past, first, to,
                       rows, mixed, s.log_weight.middle_rows(first, count));
    latent_values(p.on, Heads, N, mixed, w.kv_b, s.mixed.middle_rows(first, count));
  }

  /// With keys and values of this pass's tokens alone.
  template <class W>
  static void attend_expanded(pass<X> const& p, W const& w, saved const& s, scratch const& t) {
    linear_forward(p.on, vectors(s.rows), w.kv_b, t.kv);
    copy_heads(p.on, Heads, N.nope, t.kv, kv_dim, s.k, query_dim);
    copy_heads(p.on, Heads, N.rope, behind(s.rows), 0, from_column(s.k, N.nope), query_dim);
    copy_heads(p.on, Heads, N.value, from_column(t.kv, N.nope), kv_dim, s.v, N.value);
    attend_forward(p.on, expanded_heads(), p.batch, {}, s.q, s.k, s.v, s.mixed, s.log_weight);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
