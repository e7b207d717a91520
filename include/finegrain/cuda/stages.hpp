// Plans of the simple stages on the device: the kernels' arguments, and their scratch memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "attention.hpp"
#include "elementwise.hpp"
#include "embed.hpp"
#include "executor.hpp"
#include "latent_attention.hpp"
#include "linear.hpp"
#include "loss.hpp"
#include "norm.hpp"
#include "normed.hpp"
#include "project.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

template <class T>
void add_rows(basic_cuda<T> const& on, matrix<T const> x, matrix<T> y) {
  device::elementwise<T>::add(x, y, on.stream);
}

/// y = x W^T.
template <class T>
void linear_forward(basic_cuda<T> const& on, std::type_identity_t<matrix<T const>> x,
                    std::type_identity_t<matrix<T const>> w, std::type_identity_t<matrix<T>> y) {
  device::linear<T>::forward(on.context->blas, x, w, gradients::overwrite, y, on.stream);
}
template <class T>
void linear_backward(basic_cuda<T> const& on, std::type_identity_t<matrix<T const>> x,
                     std::type_identity_t<matrix<T const>> w,
                     std::type_identity_t<matrix<T const>> dy, std::type_identity_t<matrix<T>> dw,
                     gradients mode, std::type_identity_t<matrix<T>> dx, gradients dx_mode) {
  device::linear<T>::backward_weight(on.context->blas, dy, x, mode, dw, on.stream);
  if (dx.data) device::linear<T>::backward_input(on.context->blas, dy, w, dx_mode, dx, on.stream);
}

namespace device {

/// A product alone, and the room to make its weight of codes.
template <class T, int In, int Out>
struct product_plan : finegrain::detail::linear_plan<basic_cuda<T>> {
  struct scratch {
    T* numbers;
    constexpr scratch(arena& memory, extent e)
        : numbers(memory.take<T>(decoded_numbers(e, Out, In))) {}
  };
  template <class W>
  static void forward(pass<basic_cuda<T>> p, W const& w, nothing const&, matrix<T const> x,
                      matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    project(p.on, x, w.weight, gradients::overwrite, y, t.numbers);
  }
};

}  // namespace device

template <class T, int In, int Out>
struct plan<basic_cuda<T>, linear<In, Out>> : device::product_plan<T, In, Out> {};
template <class T, int D, int V>
struct plan<basic_cuda<T>, head<D, V>> : device::product_plan<T, D, V> {};

/// Of a blend (plan/compose.hpp): its mix is f32, its gradients T.
template <class T, class X = basic_cuda<T>>
void blend_forward(basic_cuda<T> const& on, detail::rows_in<X> x, detail::rows_in<X> w,
                   detail::rows_in<X> ya, detail::rows_in<X> yb, matrix<float> mix,
                   detail::rows_out<X> y) {
  device::linear<T>::forward_f32(on.context->blas, x, w, mix, on.stream);
  device::elementwise<T>::blend(mix.data, ya, yb, y, on.stream);
}
template <class T, class X = basic_cuda<T>>
void blend_backward(basic_cuda<T> const& on, matrix<float const> mix, detail::rows_in<X> ya,
                    detail::rows_in<X> yb, detail::rows_in<X> dy, detail::rows_out<X> da,
                    detail::rows_out<X> db, detail::rows_out<X> dmix) {
  device::elementwise<T>::blend_backward(mix.data, ya, yb, dy, da, db, dmix.data, on.stream);
}

/// The losses of train/loss.hpp. Their sums are added to the executor's own, on the device, and what
/// is returned is 0: see place::total. Where the device has counted the terms, the scale is divided
/// by these; else `terms` is null.
template <class T>
double cross_entropy(basic_cuda<T> const& on, matrix<T const> logits,
                     std::span<std::int32_t const> targets, double scale, std::int64_t const* terms,
                     matrix<T> dlogits) {
  device::loss<T>::cross_entropy(logits, targets.data(), scale, terms, dlogits,
                                 on.context->token_losses.data(), on.context->loss.data(),
                                 on.stream);
  return 0;
}
/// Counts targets that are not below 0, where the host cannot read them; else null.
template <class T>
std::int64_t const* terms_on(basic_cuda<T> const& on, std::span<std::int32_t const> targets) {
  if (targets.empty() || place<basic_cuda<T>>::readable(targets.data())) return nullptr;
  std::int64_t* const terms = on.context->terms.data();
  device::loss<T>::count_targets(targets.data(), static_cast<std::int64_t>(targets.size()), terms,
                                 on.stream);
  return terms;
}
template <class T>
double squared_error(basic_cuda<T> const& on, matrix<T const> y, matrix<T const> target,
                     double scale, matrix<T> dy) {
  device::loss<T>::squared_error(y, target, scale, dy, on.context->loss_parts.data(),
                                 on.context->loss.data(), on.stream);
  return 0;
}

template <class T, int D>
struct plan<basic_cuda<T>, rmsnorm<D>> {
  static_assert(D % 8 == 0, "on cuda, the width of rmsnorm must be a multiple of 8");
  using X = basic_cuda<T>;
  struct saved {
    float* inverse_rms;  // (T)
    constexpr saved(arena& memory, extent e) : inverse_rms(memory.take<float>(e.tokens)) {}
  };
  struct scratch {
    float* sums;
    constexpr scratch(arena& memory, extent e)
        : sums(memory.take<float>(e.training ? device::norm_parts(e.tokens, D) * D : 0)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    device::norm<T>::forward(x, w.gain.data, static_cast<float>(rmsnorm<D>::epsilon), y,
                             s.inverse_rms, p.on.stream);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    device::norm<T>::backward(x, w.gain.data, s.inverse_rms, dy, {}, t.sums, dw.gain.data,
                              p.gradients, dx, p.on.stream);
  }
};

template <class T, Expr A, Expr B>
struct plan<basic_cuda<T>, blended<A, B>> : detail::blend_plan<basic_cuda<T>, A, B> {
  static_assert(in_width<A>() % 8 == 0 && out_width<A>() % 8 == 0,
                "on cuda, widths of blend must be multiples of 8");
};

template <class T, int V, int D>
struct plan<basic_cuda<T>, embedding<V, D>> {
  static_assert(D % 8 == 0, "on cuda, the width of an embedding must be a multiple of 8");
  using X = basic_cuda<T>;
  using saved = nothing;
  struct scratch {
    device::embed_scratch sums;
    constexpr scratch(arena& memory, extent e) : sums(memory, e.training ? e.tokens : 0, D) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const&, matrix<T const>, matrix<T> y) {
    device::embed<T>::forward(p.batch.ids.data(), w.table, y, p.on.stream);
  }
  template <class W, class U>
  static void backward(pass<X> p, W const&, saved const&, matrix<T const>, matrix<T const> dy,
                       U const& dw, matrix<T>) {
    scratch const t(p.scratch, p.extent);
    device::embed<T>::backward(p.batch.ids.data(), dy, t.sums, p.gradients, dw.table, p.on.stream);
  }
};

/// Three products with x are one, since the weights of query, key and value lie one after the other,
/// and so do their gradients; codes have a place each. Behind a cache of several sequences each token
/// reads its own one's keys: few tokens of each are what such a pass is for.
template <class T, int D, int Heads, int KvHeads, int HeadDim>
struct plan<basic_cuda<T>, attention<D, Heads, KvHeads, HeadDim>> {
  static_assert(D % 8 == 0 && HeadDim % 8 == 0 && HeadDim <= 256,
                "on cuda, attention's D and HeadDim must be multiples of 8, HeadDim 256 at most");
  using X = basic_cuda<T>;
  using E = attention<D, Heads, KvHeads, HeadDim>;
  static constexpr heads shape{Heads, KvHeads, HeadDim};
  static constexpr int q_width = Heads * HeadDim, kv_width = KvHeads * HeadDim;
  static constexpr int all_width = q_width + 2 * kv_width;
  static constexpr std::int64_t few = 16;   // new tokens that share out a cache's keys
  static constexpr std::int64_t some = 64;  // of several sequences, at a time

  struct saved {
    matrix<T> qkv;      // (T, all heads * dim), query and key with their positions turned in
    matrix<T> mixed;    // (T, query heads * dim)
    float* log_weight;  // (T, query heads): log of the sum of exponentials of scores
    constexpr saved(arena& memory, extent e)
        : qkv(memory.matrix<T>(e.tokens, all_width)),
          mixed(memory.matrix<T>(e.tokens, q_width)),
          log_weight(memory.take<float>(e.tokens * Heads)) {}
  };
  struct scratch {
    matrix<T> dqkv, dmixed;
    float *delta, *parts;
    T* numbers;  // of a weight in codes
    constexpr scratch(arena& memory, extent e)
        : dqkv(memory.matrix<T>(e.training ? e.tokens : 0, all_width)),
          dmixed(memory.matrix<T>(e.training ? e.tokens : 0, q_width)),
          delta(memory.take<float>(e.training ? e.tokens * Heads : 0)),
          parts(memory.take<float>(
              e.training ? 0 : device::decode_room(shape, std::min(e.tokens, some)))),
          numbers(memory.take<T>(std::max(device::decoded_numbers(e, q_width, D),
                                          device::decoded_numbers(e, D, q_width)))) {}
  };

  /// y = or += what attention makes of x.
  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y,
                      gradients mode = gradients::overwrite) {
    scratch const t(p.scratch, p.extent);
    auto const at = device::places_of(p.batch, p.extent.tokens, p.past());
    auto const [q, k, v] = parts(s.qkv);
    auto const project = [&](auto const& weight, matrix<T> to) {
      device::project(p.on, x, weight, gradients::overwrite, to, t.numbers);
    };
    if constexpr (device::is_coded_weight<std::remove_cvref_t<decltype(w.query)>>) {
      project(w.query, q);
      project(w.key, k);
      project(w.value, v);
    } else {
      project(stacked(w.query), s.qkv);
    }
    device::rotary<T>::turn(at, HeadDim, E::theta, 1, q, k, p.on.stream);
    matrix<T> const keys = with_earlier(p, k), values = with_earlier(p, v);
    earlier const past = p.past();
    if (past.rows && past.none())
      device::attend<T>::forward(shape, at, q, k, v, s.mixed, s.log_weight, p.on.stream);
    else if (past.rows)
      for (std::int64_t first = 0; first < x.rows; first += some) {
        std::int64_t const n = std::min(some, x.rows - first);
        device::attend<T>::decode_each(
            shape, {n, past.rows + first, past.capacity}, q.middle_rows(first, n), keys, values,
            s.mixed.middle_rows(first, n), s.log_weight + first * Heads, t.parts, p.on.stream);
      }
    else if (p.cache && x.rows <= few)
      device::attend<T>::decode(shape, at, q, keys, values, s.mixed, s.log_weight, t.parts,
                                p.on.stream);
    else
      device::attend<T>::forward(shape, at, q, keys, values, s.mixed, s.log_weight, p.on.stream);
    device::project<T>(p.on, s.mixed, w.output, mode, y, t.numbers);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    auto const at = device::places_of(p.batch, p.extent.tokens, {});
    auto const [q, k, v] = parts(s.qkv);
    auto const [dq, dk, dv] = parts(t.dqkv);
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, gradients::overwrite);
    device::attend<T>::backward(shape, at, q, k, v, s.mixed, s.log_weight, t.dmixed, dq, dk, dv,
                                t.delta, p.on.stream);
    device::rotary<T>::turn(at, HeadDim, E::theta, -1, dq, dk, p.on.stream);
    linear_backward(p.on, x, stacked(w.query), t.dqkv, stacked(dw.query), mode, dx,
                    gradients::overwrite);
  }

 private:
  /// The first of three matrices that lie one after the other, with the others.
  template <class U>
  static matrix<U> stacked(matrix<U> first) {
    return {first.data, all_width, D};
  }
  static std::array<matrix<T>, 3> parts(matrix<T> all) {
    return {all.middle_cols(0, q_width), all.middle_cols(q_width, kv_width),
            all.middle_cols(q_width + kv_width, kv_width)};
  }
};

/// x + attention(rmsnorm(x)): the norm, which reads x, begins the sum, to which attention's last
/// product is added; in backward the norm adds the residual's gradient.
template <class T, int D, int Heads, int KvHeads, int HeadDim>
struct plan<basic_cuda<T>, residual_of<then<rmsnorm<D>, attention<D, Heads, KvHeads, HeadDim>>>> {
  using X = basic_cuda<T>;
  using stage = plan<X, attention<D, Heads, KvHeads, HeadDim>>;

  using memory = device::normed<T, D, stage>;
  using saved = typename memory::saved;
  using scratch = typename memory::scratch;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    p.scratch = scratch(p.scratch, p.extent).rest;
    device::norm<T>::add_forward(x, {}, w.a.a.gain.data, static_cast<float>(rmsnorm<D>::epsilon), y,
                                 s.rows, s.inverse_rms, p.on.stream);
    stage::forward(p, w.a.b, s.inner, s.rows, y, gradients::accumulate);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    p.scratch = t.rest;
    stage::backward(p, w.a.b, s.inner, s.rows, dy, dw.a.b, t.drows);
    device::norm<T>::backward(x, w.a.a.gain.data, s.inverse_rms, t.drows, dy, t.sums,
                              dw.a.a.gain.data, p.gradients, dx, p.on.stream);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
