// Plans of the simple stages on the device: the kernels' arguments, and their scratch memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/blend.hpp"
#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "elementwise.hpp"
#include "embed.hpp"
#include "latent_attention.hpp"
#include "linear.hpp"
#include "loss.hpp"
#include "norm.hpp"
#include "place.hpp"
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

/// Of a blend (plan/blend.hpp): its mix is f32, its gradients T.
template <class T, class X = basic_cuda<T>>
void blend_forward(basic_cuda<T> const& on, detail::rows_in<X> x, detail::rows_in<X> w,
                   detail::rows_in<X> ya, detail::rows_in<X> yb, matrix<float> mix,
                   detail::rows_out<X> y) {
  device::check_rows(y, "y");
  device::linear<T>::forward_f32(on.context->blas, x, w, mix, on.stream);
  device::elementwise<T>::blend(mix.data, ya, yb, y, on.stream);
}
template <class T, class X = basic_cuda<T>>
void blend_backward(basic_cuda<T> const& on, matrix<float const> mix, detail::rows_in<X> ya,
                    detail::rows_in<X> yb, detail::rows_in<X> dy, detail::rows_out<X> da,
                    detail::rows_out<X> db, detail::rows_out<X> dmix) {
  device::check_rows(dy, "dy");
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
template <class T>
double cross_entropy(basic_cuda<T> const& on, matrix<T const> logits,
                     std::span<std::int32_t const> targets, double scale, matrix<T> dlogits) {
  return cross_entropy(on, logits, targets, scale, nullptr, dlogits);
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
template <class T>
void clear_rows(basic_cuda<T> const& on, matrix<T> m) {
  for (std::int64_t r = 0, rows = m.stride == m.cols ? m.rows : 1; r < m.rows; r += rows)
    device::runtime::fill(m.row(r), 0, device::bytes_of<T>(rows * m.cols), on.stream);
}
template <class T>
void scale_rows(basic_cuda<T> const& on, matrix<T const> from, double scale, matrix<T> to) {
  device::elementwise<T>::scale(from, static_cast<float>(scale), to, on.stream);
}

template <class T, int D, real_number Epsilon>
struct plan<basic_cuda<T>, rmsnorm<D, Epsilon>> {
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
  static constexpr bool any_rows = true;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    device::check_rows(x, "x"), device::check_rows(y, "y");
    device::norm<T>::forward(x, w.gain.data, static_cast<float>(Epsilon.value), y, s.inverse_rms,
                             p.on.stream);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    device::check_rows(x, "x"), device::check_rows(dy, "dy"), device::check_rows(dx, "dx");
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
    device::check_rows(y, "y");
    device::embed<T>::forward(p.batch.ids.data(), w.table, y, p.on.stream);
  }
  template <class W, class U>
  static void backward(pass<X> p, W const&, saved const&, matrix<T const>, matrix<T const> dy,
                       U const& dw, matrix<T>) {
    device::check_rows(dy, "dy");
    scratch const t(p.scratch, p.extent);
    device::embed<T>::backward(p.batch.ids.data(), dy, t.sums, p.gradients, dw.table, p.on.stream);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
