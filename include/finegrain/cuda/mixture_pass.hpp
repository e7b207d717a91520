// mixture_pass: one pass through a layer of experts on the device: route, dispatch, all experts in two
// launches, combine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "combine.hpp"
#include "experts.hpp"
#include "mixture_memory.hpp"
#include "router_pass.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What forward and backward have in common. N, Rarer and Biased are router_pass's. Forward asks
/// Experts for its products, which may have weights of their own. `shared`: whether the layer has
/// shared experts; `wanted`: whether they take part.
template <class T, int N, bool Rarer, bool Biased, class Experts = experts<T>>
class mixture_pass {
 public:
  using X = basic_cuda<T>;
  mixture_pass(pass<X> const& p, config const& c, bool shared, bool wanted,
               mixture_weights<T const> const& w, mixture_saved<T> const& saved, T const* x,
               Experts const& experts = {})
      : p_(p),
        c_(c),
        shared_(shared && wanted),
        s_(saved),
        t_(p_.scratch, p.extent, c, shared, routed_),
        router_(p, c, shared_, w, saved, t_, x),
        experts_(experts) {
    products_.hidden = c.hidden;
    products_.act = c.act;
    products_.rows = router_.rows();
    products_.rows.tokens = static_cast<int>(p.extent.tokens);
    products_.x = x;
    if (routed_) products_.routed = family(c.width, w.gate, w.up, w.down, s_.z, t_.hidden, t_.out);
    if (shared_)
      products_.shared = family(c.shared * c.width, w.shared_gate, w.shared_up, w.shared_down,
                                s_.shared_z, t_.shared_hidden, t_.shared_out);
  }

  /// y (T, D), with `add` (T, D) in it where that is not null.
  void forward(T const* add, T* y) {
    auto const on = p_.on.stream;
    router_.forward();
    experts_.up_forward(products_, p_.on.use, on);
    if (routed_ && few_tokens(p_.extent.tokens, products_.rows.tile)) {
      products_.shared.weight = router_.shared_weight();
      return experts_.down_combine(products_, add, y, on);
    }
    experts_.down_forward(products_, p_.on.use, on);
    combine<T>::forward(combined_rows(add), s_.router.weights, router_.shared_weight(), 1.0f, y,
                        on);
  }

  /// dx (T, D), with `add` (T, D) in it where that is not null, and gradients of all weights.
  void backward(T const* dy, mixture_weights<T> const& dw, T const* add, T* dx) {
    auto const on = p_.on.stream;
    products_.dy = dy;
    products_.mode = p_.gradients;
    if (routed_)
      products_.routed = backward_of(products_.routed, t_.dz, t_.dot, dw.gate, dw.up, dw.down);
    if (shared_)
      products_.shared = backward_of(products_.shared, t_.shared_dz, t_.shared_dot, dw.shared_gate,
                                     dw.shared_up, dw.shared_down);
    products_.shared.weight = router_.shared_weight();
    experts<T>::down_backward(products_, p_.on.use, on);
    experts<T>::down_weights(products_, p_.on.use, on);
    experts<T>::up_backward(products_, p_.on.use, on);
    experts<T>::up_weights(products_, p_.on.use, on);
    router_part<T> const part = router_.backward(dw, add);
    combine<T>::backward(combined_rows(add), part, dx, on);
    begin(dw);
  }

 private:
  static expert_family<T> family(int width, T const* gate, T const* up, T const* down, T* z,
                                 T* hidden, T* out) {
    expert_family<T> f;
    f.width = width;
    f.gate = gate, f.up = up, f.down = down;
    f.z = z, f.hidden = hidden, f.out = out;
    return f;
  }
  static expert_family<T> backward_of(expert_family<T> f, T* dz, float* dot, T* dgate, T* dup,
                                      T* ddown) {
    f.dz = dz, f.dot = dot;
    f.dgate = dgate, f.dup = dup, f.ddown = ddown;
    return f;
  }
  combined<T> combined_rows(T const* add) const {
    return {.hidden = c_.hidden,
            .tokens = p_.extent.tokens,
            .slots = products_.rows.slots,
            .slot_row = products_.rows.slot_row,
            .routed = t_.out,
            .shared = shared_ ? t_.shared_out : nullptr,
            .add = add};
  }
  /// Zeroes gradients that nothing is added to.
  void begin(mixture_weights<T> const& dw) const {
    if (p_.gradients == gradients::accumulate) return;
    auto const clear = [&](T* data, std::int64_t count) {
      if (data) runtime::fill(data, 0, bytes_of<T>(count), p_.on.stream);
    };
    clear(dw.router.bias.data, dw.router.bias.size());
    clear(dw.router.table.data, dw.router.table.size());
    if (shared_) return;
    std::int64_t const shared = std::int64_t{c_.hidden} * c_.shared * c_.width;
    clear(dw.shared_gate, shared), clear(dw.shared_up, shared), clear(dw.shared_down, shared);
    clear(dw.shared_gate_weights, c_.hidden);
  }

  pass<X> p_;
  config const& c_;
  static constexpr bool routed_ = N > 0;
  bool shared_;
  mixture_saved<T> s_;
  mixture_scratch<T> t_;
  router_pass<T, N, Rarer, Biased> router_;
  expert_products<T> products_;
  Experts experts_;
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
