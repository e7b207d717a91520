// Latent attention's plan, for every executor whose memory is the host's.
//
// A training pass makes every head's keys and values, as the formula reads. A pass without a gradient
// moves the products with those matrices to the other side of the softmax: queries meet the latent
// vectors themselves, which are what a cache holds, and heads are all of one key-value head. The
// numbers are the same but for rounding; all passes without a gradient have the same bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../expr/latent_attention.hpp"
#include "plan.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Besides the functions of plan/stages.hpp a backend supplies two products, one of each head:
///
///   latent_queries(on, heads, N, q, kv_b, to)    q (T, heads * (nope + rope)): into the first
///                                                kv_rank of each head's numbers of `to`
///                                                (T, heads * (kv_rank + rope))
///   latent_values(on, heads, N, from, kv_b, to)  from (T, heads * kv_rank) to (T, heads * value)
template <class X, int D, int Heads, latent N>
struct plan<X, latent_attention<D, Heads, N>> {
  using S = typename X::scalar;
  using E = latent_attention<D, Heads, N>;
  using sum = typename place<X>::sum;
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
    matrix<S> k, v;           // (T, Heads * query_dim), (T, Heads * value): of training
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
          k(memory.matrix<S>(e.training ? e.tokens : 0, Heads * query_dim)),
          v(memory.matrix<S>(e.training ? e.tokens : 0, Heads * N.value)),
          mixed(memory.matrix<S>(e.tokens, Heads * N.value)),
          log_weight(memory.matrix<sum>(e.tokens, Heads)) {}
  };
  struct scratch {
    matrix<S> latent_q,
        latent_mixed;  // (T, Heads * row_dim), (T, Heads * kv_rank): not in training
    matrix<S> kv;      // (T, Heads * kv_dim), and in backward its gradient
    matrix<S> dq, dk, dv, dmixed, drows, dlow, dq_rows, dq_low;
    constexpr scratch(arena& memory, extent e)
        : scratch(memory, e.training ? 0 : e.tokens, e.training ? e.tokens : 0) {}

   private:
    constexpr scratch(arena& memory, std::int64_t used, std::int64_t trained)
        : latent_q(memory.matrix<S>(used, Heads * row_dim)),
          latent_mixed(memory.matrix<S>(used, Heads * N.kv_rank)),
          kv(memory.matrix<S>(trained, Heads * kv_dim)),
          dq(memory.matrix<S>(trained, Heads * query_dim)),
          dk(memory.matrix<S>(trained, Heads * query_dim)),
          dv(memory.matrix<S>(trained, Heads * N.value)),
          dmixed(memory.matrix<S>(trained, Heads * N.value)),
          drows(memory.matrix<S>(trained, row_dim)),
          dlow(memory.matrix<S>(trained, row_dim)),
          dq_rows(memory.matrix<S>(E::straight ? 0 : trained, N.q_rank)),
          dq_low(memory.matrix<S>(E::straight ? 0 : trained, N.q_rank)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    scratch const t(p.scratch, p.extent);
    std::int64_t const past = p.cache ? p.cache->length : 0;
    matrix<S> rows = s.rows;  // (past + T, kv_rank + rope)
    if (p.cache) rows = p.cache->take(row_dim).middle_rows(0, past + x.rows);
    matrix<S> const made = rows.middle_rows(past, x.rows);

    if constexpr (E::straight) {
      linear_forward(p.on, x, w.q_proj, s.q);
    } else {
      linear_forward(p.on, x, w.q_a, s.q_low);
      rmsnorm_forward(p.on, s.q_low, w.q_a_norm, epsilon, s.q_rows, s.q_rms);
      linear_forward(p.on, s.q_rows, w.q_b, s.q);
    }
    rotate(p.on, p.batch, past, query_turn, s.q);
    linear_forward(p.on, x, w.kv_a, s.low);
    rmsnorm_forward(p.on, vectors(s.low), w.kv_a_norm, epsilon, vectors(made), s.rms);
    detail::for_rows(p.on, x.rows, [&](std::int64_t r, int) {
      std::copy_n(s.low.row(r) + N.kv_rank, N.rope, made.row(r) + N.kv_rank);
    });
    rotate(p.on, p.batch, past, key_turn, made);

    if constexpr (std::is_convertible_v<decltype(w.kv_b), matrix<S const>>) {
      if (p.extent.training) {
        attend_expanded(p, w, s, t);
        return linear_forward(p.on, s.mixed, w.output, y);
      }
    }
    latent_queries(p.on, Heads, N, s.q, w.kv_b, t.latent_q);
    detail::for_rows(p.on, x.rows, [&](std::int64_t r, int) {
      for (int h = 0; h < Heads; ++h)
        std::copy_n(s.q.row(r) + h * query_dim + N.nope, N.rope,
                    t.latent_q.row(r) + h * row_dim + N.kv_rank);
    });
    attend_forward(p.on, {Heads, 1, row_dim, N.kv_rank, scale()}, p.batch, past, t.latent_q, rows,
                   vectors(rows), t.latent_mixed, s.log_weight);
    latent_values(p.on, Heads, N, t.latent_mixed, w.kv_b, s.mixed);
    linear_forward(p.on, s.mixed, w.output, y);
  }

  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    constexpr auto fresh = gradients::overwrite;
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, fresh);
    attend_backward(p.on, expanded(), p.batch, s.q, s.k, s.v, s.mixed, s.log_weight, t.dmixed, t.dq,
                    t.dk, t.dv);
    unrotate(p.on, p.batch, query_turn, t.dq);
    detail::for_rows(p.on, x.rows, [&](std::int64_t r, int) {
      S* const shared = t.drows.row(r) + N.kv_rank;
      std::fill_n(shared, N.rope, S(0));
      for (int h = 0; h < Heads; ++h) {
        S const* const dk = t.dk.row(r) + h * query_dim;
        S* const to = t.kv.row(r) + h * kv_dim;
        std::copy_n(dk, N.nope, to);
        std::copy_n(t.dv.row(r) + h * N.value, N.value, to + N.nope);
        for (int i = 0; i < N.rope; ++i) shared[i] += dk[N.nope + i];
      }
    });
    unrotate(p.on, p.batch, key_turn, t.drows);
    linear_backward(p.on, vectors(s.rows), w.kv_b, t.kv, dw.kv_b, mode, vectors(t.drows), fresh);
    rmsnorm_backward(p.on, vectors(s.low), w.kv_a_norm, s.rms, vectors(t.drows), dw.kv_a_norm, mode,
                     vectors(t.dlow));
    detail::for_rows(p.on, x.rows, [&](std::int64_t r, int) {
      std::copy_n(t.drows.row(r) + N.kv_rank, N.rope, t.dlow.row(r) + N.kv_rank);
    });
    linear_backward(p.on, x, w.kv_a, t.dlow, dw.kv_a, mode, dx, fresh);
    if constexpr (E::straight) {
      linear_backward(p.on, x, w.q_proj, t.dq, dw.q_proj, mode, dx, gradients::accumulate);
    } else {
      linear_backward(p.on, s.q_rows, w.q_b, t.dq, dw.q_b, mode, t.dq_rows, fresh);
      rmsnorm_backward(p.on, s.q_low, w.q_a_norm, s.q_rms, t.dq_rows, dw.q_a_norm, mode, t.dq_low);
      linear_backward(p.on, x, w.q_a, t.dq_low, dw.q_a, mode, dx, gradients::accumulate);
    }
  }

 private:
  static constexpr auto epsilon = static_cast<sum>(E::epsilon);

  static double scale() { return query_turn.sharpness() / std::sqrt(double{query_dim}); }
  static heads expanded() { return {Heads, Heads, query_dim, N.value, scale()}; }
  /// The columns without rotary positions.
  template <class T>
  static matrix<T> vectors(matrix<T> m) {
    return m.middle_cols(0, N.kv_rank);
  }

  template <class W>
  static void attend_expanded(pass<X> const& p, W const& w, saved const& s, scratch const& t) {
    linear_forward(p.on, vectors(s.rows), w.kv_b, t.kv);
    detail::for_rows(p.on, s.rows.rows, [&](std::int64_t r, int) {
      for (int h = 0; h < Heads; ++h) {
        S const* const from = t.kv.row(r) + h * kv_dim;
        S* const key = s.k.row(r) + h * query_dim;
        std::copy_n(from, N.nope, key);
        std::copy_n(s.rows.row(r) + N.kv_rank, N.rope, key + N.nope);
        std::copy_n(from + N.nope, N.value, s.v.row(r) + h * N.value);
      }
    });
    attend_forward(p.on, expanded(), p.batch, 0, s.q, s.k, s.v, s.mixed, s.log_weight);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
