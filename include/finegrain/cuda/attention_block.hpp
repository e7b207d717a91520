// attention, and x + attention(rmsnorm(x)), on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>

#include "../plan/attention.hpp"
#include "attention.hpp"
#include "bias.hpp"
#include "normed_residual.hpp"
#include "stages.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Three products with x are one, since the weights of query, key and value lie one after the other,
/// and so do their gradients; codes have a place each.
/// Biases are what a product is added to. Behind norms queries, keys and values have memory of their
/// own, and three products, since what a norm takes for rows lies one after the other.
template <class T, int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
struct plan<basic_cuda<T>, attention<D, Heads, KvHeads, HeadDim, Form>> {
  static_assert(D % 8 == 0 && HeadDim % 8 == 0 && HeadDim <= 256,
                "on cuda, attention's D and HeadDim must be multiples of 8, HeadDim 256 at most");
  static_assert(Form.rotary % 8 == 0, "on cuda, attention's rotary must be a multiple of 8");
  static_assert(!Form.adjacent || Form.rotary == 0 || Form.rotary == HeadDim,
                "on cuda, attention turns neighbours of whole heads: rotary must be 0");
  using X = basic_cuda<T>;
  using E = attention<D, Heads, KvHeads, HeadDim, Form>;
  static constexpr heads shape{Heads, KvHeads, HeadDim, HeadDim, Form.scale};
  static constexpr int q_width = Heads * HeadDim, kv_width = KvHeads * HeadDim;
  static constexpr int all_width = q_width + 2 * kv_width;
  static constexpr std::int64_t most_decoded = 16;  // new tokens of one sequence for attend::decode
  static constexpr std::int64_t decoded_at_once = 64;  // of several sequences, for decode_each

  /// Of queries, keys and values, side by side or apart.
  struct head_rows {
    matrix<T> all;      // (T, all heads * dim), or
    matrix<T> q, k, v;  // (T, heads * dim)
    constexpr head_rows(arena& memory, std::int64_t tokens)
        : all(memory.matrix<T>(E::normed ? 0 : tokens, all_width)),
          q(memory.matrix<T>(E::normed ? tokens : 0, q_width)),
          k(memory.matrix<T>(E::normed ? tokens : 0, kv_width)),
          v(memory.matrix<T>(E::normed ? tokens : 0, kv_width)) {}
    std::array<matrix<T>, 3> parts() const {
      if constexpr (E::normed)
        return {q, k, v};
      else
        return {all.middle_cols(0, q_width), all.middle_cols(q_width, kv_width),
                all.middle_cols(q_width + kv_width, kv_width)};
    }
  };
  struct saved {
    head_rows qkv;      // query and key with their positions turned in
    matrix<T> mixed;    // (T, query heads * dim)
    float* log_weight;  // (T, query heads): log of the sum of exponentials of scores
    norms_saved<T, float> norms;
    constexpr saved(arena& memory, extent e)
        : qkv(memory, e.tokens),
          mixed(memory.matrix<T>(e.tokens, q_width)),
          log_weight(memory.take<float>(e.tokens * Heads)),
          norms(memory, e.tokens, shape, Form.norm) {}
  };
  struct scratch {
    head_rows dqkv;
    matrix<T> dmixed;
    float *delta, *parts, *sums;
    T* numbers;  // of a weight in codes
    constexpr scratch(arena& memory, extent e)
        : dqkv(memory, e.training ? e.tokens : 0),
          dmixed(memory.matrix<T>(e.training ? e.tokens : 0, q_width)),
          delta(memory.take<float>(e.training ? e.tokens * Heads : 0)),
          parts(memory.take<float>(
              e.training ? 0 : device::decode_room(shape, std::min(e.tokens, decoded_at_once)))),
          sums(memory.take<float>(e.training ? most_sums(e.tokens) : 0)),
          numbers(memory.take<T>(std::max(device::decoded_numbers(e, q_width, D),
                                          device::decoded_numbers(e, D, q_width)))) {}
  };

  /// y = or += what attention makes of x.
  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y,
                      gradients mode = gradients::overwrite) {
    scratch const t(p.scratch, p.extent);
    auto const at = device::places_of(p.batch, p.extent.tokens, p.past());
    auto const [q, k, v] = s.qkv.parts();
    matrix<T> const made_q = E::normed ? s.norms.query : q, made_k = E::normed ? s.norms.key : k;
    if constexpr (Form.bias) {
      device::bias<T>::begin(w.query_bias.data, made_q, p.on.stream);
      device::bias<T>::begin(w.key_bias.data, made_k, p.on.stream);
      device::bias<T>::begin(w.value_bias.data, v, p.on.stream);
    }
    auto const project = [&](auto const& weight, matrix<T> to) {
      constexpr auto sum = Form.bias ? gradients::accumulate : gradients::overwrite;
      device::project(p.on, x, weight, sum, to, t.numbers);
    };
    if constexpr (E::normed || device::is_coded_weight<std::remove_cvref_t<decltype(w.query)>>) {
      project(w.query, made_q);
      project(w.key, made_k);
      project(w.value, v);
    } else {
      project(stacked(w.query), s.qkv.all);
    }
    if constexpr (E::normed) {
      normalise(p.on, made_q, w.query_norm, q, s.norms.query_rms);
      normalise(p.on, made_k, w.key_norm, k, s.norms.key_rms);
    }
    turn(p.on, at, 1, q, k);
    matrix<T> const keys = with_earlier(p, k), values = with_earlier(p, v);
    earlier const past = p.past();
    if (past.rows && !past.none())
      attend_each(p, past, q, keys, values, s, t);
    else if (p.cache && !past.rows && x.rows <= most_decoded)
      device::attend<T>::decode(shape, at, q, keys, values, s.mixed, s.log_weight, t.parts,
                                p.on.stream);
    else  // several sequences that all begin need not go through the cache
      device::attend<T>::forward(shape, at, q, past.rows ? k : keys, past.rows ? v : values,
                                 s.mixed, s.log_weight, p.on.stream);
    device::project<T>(p.on, s.mixed, w.output, mode, y, t.numbers);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    auto const at = device::places_of(p.batch, p.extent.tokens, {});
    auto const [q, k, v] = s.qkv.parts();
    auto const [dq, dk, dv] = t.dqkv.parts();
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, gradients::overwrite);
    device::attend<T>::backward(shape, at, q, k, v, s.mixed, s.log_weight, t.dmixed, dq, dk, dv,
                                t.delta, p.on.stream);
    turn(p.on, at, -1, dq, dk);
    if constexpr (E::normed) {
      normalise_back(p.on, s.norms.query, w.query_norm, s.norms.query_rms, dq, t.sums,
                     dw.query_norm, mode);
      normalise_back(p.on, s.norms.key, w.key_norm, s.norms.key_rms, dk, t.sums, dw.key_norm, mode);
    }
    if constexpr (Form.bias) {
      device::bias<T>::backward(dq, t.sums, dw.query_bias.data, mode, p.on.stream);
      device::bias<T>::backward(dk, t.sums, dw.key_bias.data, mode, p.on.stream);
      device::bias<T>::backward(dv, t.sums, dw.value_bias.data, mode, p.on.stream);
    }
    if constexpr (E::normed) {
      linear_backward(p.on, x, w.query, dq, dw.query, mode, dx, gradients::overwrite);
      linear_backward(p.on, x, w.key, dk, dw.key, mode, dx, gradients::accumulate);
      linear_backward(p.on, x, w.value, dv, dw.value, mode, dx, gradients::accumulate);
    } else {
      linear_backward(p.on, x, stacked(w.query), t.dqkv.all, stacked(dw.query), mode, dx,
                      gradients::overwrite);
    }
  }

 private:
  /// Behind several sequences' tokens in a cache: some tokens at a time, each with its own one's keys.
  static void attend_each(pass<X> const& p, earlier const& past, matrix<T const> q,
                          matrix<T const> keys, matrix<T const> values, saved const& s,
                          scratch const& t) {
    for (std::int64_t first = 0; first < q.rows; first += decoded_at_once) {
      std::int64_t const n = std::min(decoded_at_once, q.rows - first);
      device::attend<T>::decode_each(
          shape, {n, past.rows + first, past.capacity}, q.middle_rows(first, n), keys, values,
          s.mixed.middle_rows(first, n), s.log_weight + first * Heads, t.parts, p.on.stream);
    }
  }
  /// The first of three matrices that lie one after the other, with the others.
  template <class U>
  static matrix<U> stacked(matrix<U> first) {
    return {first.data, all_width, D};
  }
  static void turn(X const& on, device::places const& at, float direction, matrix<T> q,
                   matrix<T> k) {
    constexpr rotary how = turn_of(Form, HeadDim);
    if constexpr (Form.adjacent) {
      device::rotary<T>::turn_neighbours(at, how, direction, q, on.stream);
      device::rotary<T>::turn_neighbours(at, how, direction, k, on.stream);
    } else {
      device::rotary<T>::turn(at, how, direction, q, k, on.stream);
    }
  }
  static void normalise(X const& on, matrix<T const> x, matrix<T const> gain, matrix<T> y,
                        float* rms) {
    device::norm<T>::forward(rows_of(x, gain.cols), gain.data, static_cast<float>(Form.epsilon),
                             rows_of(y, gain.cols), rms, on.stream);
  }
  /// dx takes the place of dy.
  static void normalise_back(X const& on, matrix<T const> x, matrix<T const> gain, float const* rms,
                             matrix<T> dy, float* sums, matrix<T> dgain, gradients mode) {
    device::norm<T>::backward(rows_of(x, gain.cols), gain.data, rms,
                              rows_of<T const>(dy, gain.cols), {}, sums, dgain.data, mode,
                              rows_of(dy, gain.cols), on.stream);
  }
  /// Floats for the sums that gradients of biases and of gains are made of.
  static constexpr std::int64_t most_sums(std::int64_t tokens) {
    auto const of_norm = [&](int heads) {
      int const width = E::norm_width(heads);
      return E::normed ? device::norm_parts(tokens * (heads * HeadDim / width), width) * width : 0;
    };
    return std::max(
        {Form.bias ? device::bias_parts(tokens) * q_width : 0, of_norm(Heads), of_norm(KvHeads)});
  }
};

/// x + attention(rmsnorm(x)): the norm, which reads x, begins the sum, to which attention's last
/// product is added.
template <class T, int D, real_number Epsilon, int Heads, int KvHeads, int HeadDim,
          attention_form Form>
struct plan<basic_cuda<T>,
            residual_of<then<rmsnorm<D, Epsilon>, attention<D, Heads, KvHeads, HeadDim, Form>>>>
    : device::normed_residual<T, D,
                              plan<basic_cuda<T>, attention<D, Heads, KvHeads, HeadDim, Form>>> {
  using X = basic_cuda<T>;
  using stage = plan<X, attention<D, Heads, KvHeads, HeadDim, Form>>;
  using block = device::normed_residual<T, D, stage>;
  using typename block::saved, typename block::scratch;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    device::check_rows(x, "x"), device::check_rows(y, "y");
    p.scratch = scratch(p.scratch, p.extent).rest;
    device::norm<T>::add_forward(x, {}, w.a.a.gain.data, static_cast<float>(Epsilon.value), y,
                                 s.rows, s.inverse_rms, p.on.stream);
    stage::forward(p, w.a.b, s.inner, s.rows, y, gradients::accumulate);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
