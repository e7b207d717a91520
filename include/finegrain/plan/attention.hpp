// Attention's plan, for every executor of the host.
//
// Besides the functions of plan/stages.hpp a backend supplies add_bias and bias_backward in its
// linear.hpp, rotate, unrotate and attend_... in its attention.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Rows of some heads as a norm of `width` numbers takes them: a row a head, or a row all heads. The
/// rows of m lie one after the other.
template <class T>
matrix<T> rows_of(matrix<T> m, std::int64_t width) {
  return {m.data, m.size() / width, width};
}

/// What norms of queries and keys leave for backward: what they were given, and their factors.
template <class S, class Sum>
struct norms_saved {
  matrix<S> query, key;      // (T, heads * dim)
  Sum *query_rms, *key_rms;  // (T) of all heads, (T, heads) of each

  constexpr norms_saved(arena& memory, std::int64_t tokens, heads shape, head_norm norm)
      : norms_saved(memory, norm == head_norm::none ? 0 : tokens, shape, norm == head_norm::each) {}

 private:
  constexpr norms_saved(arena& memory, std::int64_t tokens, heads shape, bool each)
      : query(memory.matrix<S>(tokens, shape.query * shape.dim)),
        key(memory.matrix<S>(tokens, shape.key_value * shape.dim)),
        query_rms(memory.take<Sum>(tokens * (each ? shape.query : 1))),
        key_rms(memory.take<Sum>(tokens * (each ? shape.key_value : 1))) {}
};

template <class X, int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
struct plan<X, attention<D, Heads, KvHeads, HeadDim, Form>> {
  using S = typename X::scalar;
  using sum = typename place<X>::sum;
  using E = attention<D, Heads, KvHeads, HeadDim, Form>;
  static constexpr heads shape{Heads, KvHeads, HeadDim, HeadDim, Form.scale};
  static constexpr rotary turned = turn_of(Form, HeadDim);
  static constexpr int q_width = Heads * HeadDim, kv_width = KvHeads * HeadDim;

  struct saved {
    matrix<S> q, k, v;       // (T, heads * dim), q and k with their positions turned in
    matrix<S> mixed;         // (T, query heads * dim)
    matrix<sum> log_weight;  // (T, query heads) log of the sum of exp(scores)
    norms_saved<S, sum> norms;
    constexpr saved(arena& memory, extent e)
        : q(memory.matrix<S>(e.tokens, q_width)),
          k(memory.matrix<S>(e.tokens, kv_width)),
          v(memory.matrix<S>(e.tokens, kv_width)),
          mixed(memory.matrix<S>(e.tokens, q_width)),
          log_weight(memory.matrix<sum>(e.tokens, Heads)),
          norms(memory, e.tokens, shape, Form.norm) {}
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
    matrix<S> const made_q = E::normed ? s.norms.query : s.q,
                    made_k = E::normed ? s.norms.key : s.k;
    linear_forward(p.on, x, w.query, made_q);
    linear_forward(p.on, x, w.key, made_k);
    linear_forward(p.on, x, w.value, s.v);
    if constexpr (Form.bias) {
      add_bias(p.on, w.query_bias, made_q);
      add_bias(p.on, w.key_bias, made_k);
      add_bias(p.on, w.value_bias, s.v);
    }
    if constexpr (E::normed) {
      normalise(p.on, made_q, w.query_norm, s.q, s.norms.query_rms);
      normalise(p.on, made_k, w.key_norm, s.k, s.norms.key_rms);
    }
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
    if constexpr (E::normed) {
      normalise_back(p.on, s.norms.query, w.query_norm, s.norms.query_rms, t.dq, dw.query_norm,
                     mode);
      normalise_back(p.on, s.norms.key, w.key_norm, s.norms.key_rms, t.dk, dw.key_norm, mode);
    }
    if constexpr (Form.bias) {
      bias_backward(p.on, t.dq, dw.query_bias, mode);
      bias_backward(p.on, t.dk, dw.key_bias, mode);
      bias_backward(p.on, t.dv, dw.value_bias, mode);
    }
    linear_backward(p.on, x, w.query, t.dq, dw.query, mode, dx, gradients::overwrite);
    linear_backward(p.on, x, w.key, t.dk, dw.key, mode, dx, gradients::accumulate);
    linear_backward(p.on, x, w.value, t.dv, dw.value, mode, dx, gradients::accumulate);
  }

 private:
  static void normalise(X const& on, matrix<S const> x, matrix<S const> gain, matrix<S> y,
                        sum* rms) {
    rmsnorm_forward(on, rows_of(x, gain.cols), gain, sum(Form.epsilon), rows_of(y, gain.cols), rms);
  }
  /// dx takes the place of dy.
  static void normalise_back(X const& on, matrix<S const> x, matrix<S const> gain, sum const* rms,
                             matrix<S> dy, matrix<S> dgain, gradients mode) {
    rmsnorm_backward(on, rows_of(x, gain.cols), gain, rms, rows_of(dy, gain.cols), dgain, mode,
                     rows_of(dy, gain.cols));
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
