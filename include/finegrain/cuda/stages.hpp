// Plans of the simple stages on the device: the kernels' arguments, and their scratch memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "attention.hpp"
#include "elementwise.hpp"
#include "embed.hpp"
#include "linear.hpp"
#include "loss.hpp"
#include "norm.hpp"

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

/// The losses of train/loss.hpp. Their sums are added to the executor's own, on the device, and what
/// is returned is 0: see place::total.
template <class T>
double cross_entropy(basic_cuda<T> const& on, matrix<T const> logits,
                     std::span<std::int32_t const> targets, double scale, matrix<T> dlogits) {
  return cross_entropy(on, logits, targets, scale, nullptr, dlogits);
}
/// The same where the device has counted the terms, which the scale is then divided by.
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
struct plan<basic_cuda<T>, blended<A, B>> {
  static_assert(sizeof(T) == 0, "blend: cuda has no plan for it yet");
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

template <class T, int D, int Heads, int KvHeads, int HeadDim>
struct plan<basic_cuda<T>, attention<D, Heads, KvHeads, HeadDim>> {
  static_assert(HeadDim % 8 == 0 && HeadDim <= 256,
                "on cuda, attention's HeadDim must be a multiple of 8, and 256 at most");
  using X = basic_cuda<T>;
  using E = attention<D, Heads, KvHeads, HeadDim>;
  static constexpr heads shape{Heads, KvHeads, HeadDim};
  static constexpr int q_width = Heads * HeadDim, kv_width = KvHeads * HeadDim;
  static constexpr std::int64_t few = 16;  // new tokens that share out a cache's keys

  struct saved {
    matrix<T> q, k, v;  // (T, heads * dim), q and k with their positions turned in
    matrix<T> mixed;    // (T, query heads * dim)
    float* log_weight;  // (T, query heads): log of the sum of exponentials of scores
    constexpr saved(arena& memory, extent e)
        : q(memory.matrix<T>(e.tokens, q_width)),
          k(memory.matrix<T>(e.tokens, kv_width)),
          v(memory.matrix<T>(e.tokens, kv_width)),
          mixed(memory.matrix<T>(e.tokens, q_width)),
          log_weight(memory.take<float>(e.tokens * Heads)) {}
  };
  struct scratch {
    matrix<T> dq, dk, dv, dmixed;
    float *delta, *parts;
    constexpr scratch(arena& memory, extent e)
        : dq(memory.matrix<T>(e.training ? e.tokens : 0, q_width)),
          dk(memory.matrix<T>(e.training ? e.tokens : 0, kv_width)),
          dv(memory.matrix<T>(e.training ? e.tokens : 0, kv_width)),
          dmixed(memory.matrix<T>(e.training ? e.tokens : 0, q_width)),
          delta(memory.take<float>(e.training ? e.tokens * Heads : 0)),
          parts(memory.take<float>(
              e.tokens <= few && !e.training ? device::decode_floats(shape, e.tokens) : 0)) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    scratch const t(p.scratch, p.extent);
    std::int64_t const past = p.cache ? p.cache->length : 0;
    matrix<T> keys = s.k, values = s.v;  // (past + T, key-value heads * dim)
    if (p.cache) {
      keys = p.cache->take(kv_width).middle_rows(0, past + x.rows);
      values = p.cache->take(kv_width).middle_rows(0, past + x.rows);
    }
    matrix<T> const k = keys.middle_rows(past, x.rows), v = values.middle_rows(past, x.rows);
    linear_forward(p.on, x, w.query, s.q);
    linear_forward(p.on, x, w.key, k);
    linear_forward(p.on, x, w.value, v);
    auto const at = where(p, past);
    device::rotary<T>::turn(at, HeadDim, E::theta, 1, s.q, k, p.on.stream);
    if (p.cache && x.rows <= few)
      device::attend<T>::decode(shape, at, s.q, keys, values, s.mixed, s.log_weight, t.parts,
                                p.on.stream);
    else
      device::attend<T>::forward(shape, at, s.q, keys, values, s.mixed, s.log_weight, p.on.stream);
    linear_forward(p.on, s.mixed, w.output, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    scratch const t(p.scratch, p.extent);
    auto const mode = p.gradients;
    auto const at = where(p, 0);
    linear_backward(p.on, s.mixed, w.output, dy, dw.output, mode, t.dmixed, gradients::overwrite);
    device::attend<T>::backward(shape, at, s.q, s.k, s.v, s.mixed, s.log_weight, t.dmixed, t.dq,
                                t.dk, t.dv, t.delta, p.on.stream);
    device::rotary<T>::turn(at, HeadDim, E::theta, -1, t.dq, t.dk, p.on.stream);
    linear_backward(p.on, x, w.query, t.dq, dw.query, mode, dx, gradients::overwrite);
    linear_backward(p.on, x, w.key, t.dk, dw.key, mode, dx, gradients::accumulate);
    linear_backward(p.on, x, w.value, t.dv, dw.value, mode, dx, gradients::accumulate);
  }

 private:
  static device::places where(pass<X> const& p, std::int64_t past) {
    batch const& b = p.batch;
    return {.tokens = p.extent.tokens,
            .starts = b.starts.empty() ? nullptr : b.starts.data(),
            .sequences = b.sequences(),
            .positions = b.positions.empty() ? nullptr : b.positions.data(),
            .past = past};
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
