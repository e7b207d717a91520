// The DeepSeekMoE layer on the device: route, dispatch, all experts in two launches, combine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "combine.hpp"
#include "experts.hpp"
#include "frozen.hpp"
#include "norm.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Memory for so many numbers, or null: kernels write what has memory.
template <class T>
constexpr T* take_some(arena& memory, std::int64_t count) {
  T* const data = memory.take<T>(count);
  return count > 0 ? data : nullptr;
}

/// What a layer of experts keeps from forward to backward, and for its reports. Without a router,
/// or without a shared expert, those parts are empty.
template <class T>
struct mixture_saved {
  router_state router;
  row_map rows;
  balance_factors factors;
  T *z, *shared_z;  // (rows, 2 F), (T, 2 S F) of training

  constexpr mixture_saved(arena& memory, extent e, config const& c, bool shared, bool routed) {
    int const k = routed ? routing<float>::slots(c, e) : 0, R = routed ? c.routed : 0;
    std::int64_t const kept = e.training ? e.tokens : 0;
    router.logits = take_some<float>(memory, e.tokens * R);
    router.scores = take_some<float>(memory, e.tokens * R);
    router.experts = take_some<std::int32_t>(memory, e.tokens * k);
    router.weights = take_some<float>(memory, e.tokens * k);
    router.best = take_some<std::int32_t>(memory, e.tokens * k);
    router.shared_weight = take_some<float>(memory, shared && weighs_shared(c) ? e.tokens : 0);
    if (routed) rows = row_map(memory, e.tokens, k, R, tile_rows(c, e));
    factors.factors = take_some<float>(memory, std::max<std::int64_t>(e.tokens, 1) * R);
    factors.importance = take_some<float>(memory, R);
    std::int64_t const all = e.training && routed ? rows.max_rows() : 0;
    z = take_some<T>(memory, all * 2 * c.width);
    shared_z = take_some<T>(memory, shared ? kept * 2 * c.shared * c.width : 0);
  }
  /// Whether the shared expert's output is weighed.
  static constexpr bool weighs_shared(config const& c) {
    return c.shared_gate || c.shared_scale != 1;
  }
};

/// What either pass needs while it runs.
template <class T>
struct mixture_scratch {
  T *hidden, *shared_hidden;  // (rows, F), (T, S F)
  T *out, *shared_out;        // (rows, D), (T, D)
  T *dz, *shared_dz;          // (rows, 2 F), (T, 2 S F)
  float *dot, *shared_dot;    // (rows, parts of F), (T, parts of S F)
  float *dlogits, *dgate;     // (T, R), (T)
  float* router_sums;
  std::int32_t* block_counts;
  double* report_sums;
  std::int64_t* earlier;  // (R)

  constexpr mixture_scratch(arena& memory, extent e, config const& c, bool shared, bool routed) {
    int const k = routed ? routing<float>::slots(c, e) : 0, R = routed ? c.routed : 0;
    int const D = c.hidden, F = c.width, SF = shared ? c.shared * c.width : 0;
    std::int64_t const T_ = e.tokens;
    std::int64_t const rows =
        routed ? row_map::max_tiles(T_, k, R, tile_rows(c, e)) * tile_rows(c, e) : 0;
    std::int64_t const back = e.training ? 1 : 0;
    hidden = take_some<T>(memory, rows * F);
    shared_hidden = take_some<T>(memory, T_ * SF);
    out = take_some<T>(memory, rows * D);
    shared_out = take_some<T>(memory, shared ? T_ * D : 0);
    dz = take_some<T>(memory, back * rows * 2 * F);
    shared_dz = take_some<T>(memory, back * T_ * 2 * SF);
    dot = take_some<float>(memory, back * rows * dot_parts(F));
    shared_dot = take_some<float>(memory, back * T_ * dot_parts(SF));
    dlogits = take_some<float>(memory, back * T_ * R);
    dgate = take_some<float>(memory, back * T_);
    router_sums = take_some<float>(
        memory, back * std::max(router_splits::partials(T_, std::max(R, 1), D),
                                router_splits::partials(T_, R + 1, D)));  // in fewer splits
    block_counts = take_some<std::int32_t>(memory, routed ? token_chunks::counts(T_, R) : 0);
    report_sums = take_some<double>(memory, routed ? router_report::partials(R) : 0);
    earlier = take_some<std::int64_t>(memory, R);
  }
};

/// A layer's weights, or their gradients. What a layer has not is null.
template <class T>
struct mixture_weights {
  router_weights<T> router;
  T *gate = nullptr, *up = nullptr, *down = nullptr;
  T* shared_gate_weights = nullptr;  // (D) of the gate before the shared expert
  T *shared_gate = nullptr, *shared_up = nullptr, *shared_down = nullptr;
};

/// One pass through a layer of experts: what forward and backward have in common. Forward asks
/// Experts for its products, which may have weights of their own.
template <class T, class Experts = experts<T>>
class mixture_pass {
 public:
  using X = basic_cuda<T>;
  mixture_pass(pass<X> const& p, config const& c, bool shared, bool routed,
               mixture_weights<T const> const& w, mixture_saved<T> const& saved, T const* x,
               Experts const& experts = {})
      : p_(p),
        c_(c),
        routed_(routed),
        shared_(shared && p.batch.routing.shared),
        w_(w),
        s_(saved),
        t_(p_.scratch, p.extent, c, shared, routed),
        rules_(c, p.batch.routing),
        loss_(c, p.batch.routing),
        experts_(experts) {
    if (routed) s_.rows.slots = rules_.k;
    if (!(loss_.sequence > 0)) s_.router.best = nullptr;  // nobody reads it
    products_.hidden = c.hidden;
    products_.act = c.act;
    products_.rows = s_.rows;
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
    if (routed_) {
      route<T>::forward(rules_, router(), products_.x, p_.batch.ids.data(), s_.router, s_.rows,
                        t_.block_counts, on);
      count_earlier();
      route<T>::balance(rules_, loss_, s_.router, s_.rows, starts(), s_.factors, on);
      if (p_.batch.log) report();
    }
    if (shared_ && weighed())
      route<T>::shared_weight(rules_, w_.shared_gate_weights, products_.x, s_.router.shared_weight,
                              p_.extent.tokens, on);
    experts_.up_forward(products_, p_.on.use, on);
    if (routed_ && few_tokens(p_.extent.tokens, s_.rows.tile)) {
      if (weighed()) products_.shared.weight = s_.router.shared_weight;
      return experts_.down_combine(products_, add, y, on);
    }
    experts_.down_forward(products_, p_.on.use, on);
    combine<T>::forward(combined_rows(add), s_.router.weights,
                        weighed() ? s_.router.shared_weight : nullptr, 1.0f, y, on);
  }

  /// dx (T, D), with `add` (T, D) in it where that is not null, and gradients of all weights.
  void backward(T const* dy, mixture_weights<T> const& dw, T const* add, T* dx) {
    auto const on = p_.on.stream;
    std::int64_t const tokens = p_.extent.tokens;
    products_.dy = dy;
    products_.mode = p_.gradients;
    if (routed_)
      products_.routed = backward_of(products_.routed, t_.dz, t_.dot, dw.gate, dw.up, dw.down);
    if (shared_) {
      products_.shared = backward_of(products_.shared, t_.shared_dz, t_.shared_dot, dw.shared_gate,
                                     dw.shared_up, dw.shared_down);
      if (weighed()) products_.shared.weight = s_.router.shared_weight;
    }
    experts<T>::down_backward(products_, p_.on.use, on);
    experts<T>::down_weights(products_, p_.on.use, on);
    experts<T>::up_backward(products_, p_.on.use, on);
    experts<T>::up_weights(products_, p_.on.use, on);

    bool const gated = shared_ && c_.shared_gate, learns = routed_ && !c_.uniform;
    if (learns)
      route<T>::backward(rules_, loss_, {t_.dot, dot_parts(c_.width)}, s_.router, s_.rows, starts(),
                         s_.factors, t_.dlogits, on);
    if (gated)
      route<T>::shared_backward(rules_, {t_.shared_dot, dot_parts(c_.shared * c_.width)},
                                s_.router.shared_weight, t_.dgate, tokens, on);
    if (learns || gated)
      route<T>::weights_backward(c_.hidden, learns ? c_.routed : 0, products_.x, t_.dlogits,
                                 gated ? t_.dgate : nullptr, dw.router.router.data,
                                 dw.shared_gate_weights, p_.gradients, t_.router_sums, tokens, on);
    combine<T>::backward(combined_rows(add),
                         {.routed = learns ? c_.routed : 0,
                          .dlogits = t_.dlogits,
                          .router = w_.router.router.data,
                          .dgate = gated ? t_.dgate : nullptr,
                          .shared_gate = w_.shared_gate_weights},
                         dx, on);
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
  bool weighed() const { return shared_ && mixture_saved<T>::weighs_shared(c_); }
  router_numbers<T> router() const {
    return {w_.router.router.data, w_.router.bias.data, w_.router.table.data,
            w_.shared_gate_weights};
  }
  sequence_starts starts() const {
    if (p_.batch.starts.empty()) return {};
    return {p_.batch.starts.data(), static_cast<int>(p_.batch.sequences())};
  }
  combined<T> combined_rows(T const* add) const {
    return {.hidden = c_.hidden,
            .tokens = p_.extent.tokens,
            .slots = routed_ ? rules_.k : 0,
            .slot_row = s_.rows.slot_row,
            .routed = t_.out,
            .shared = shared_ ? t_.shared_out : nullptr,
            .add = add};
  }
  /// Counts of the step's earlier batches join the losses'.
  void count_earlier() {
    routing_log const* const log = p_.batch.routing.earlier;
    if (!log || !p_.batch.log || p_.batch.log->next >= log->layers.size()) return;
    routing_report const& before = log->layers[p_.batch.log->next];
    runtime::enqueue_copy(t_.earlier, before.load.data(),
                          c_.routed * static_cast<std::int64_t>(sizeof(std::int64_t)),
                          p_.on.stream);
    loss_.earlier = t_.earlier;
    loss_.earlier_tokens = before.tokens;
  }
  void report() {
    routing_log& log = *p_.batch.log;
    double* at = p_.on.context->reports.get();
    for (std::size_t l = 0; l < log.next; ++l)
      at += place<X>::report_size(log.layers[l].load.size());
    static_cast<void>(finegrain::detail::next_report(log));
    static_assert(sizeof(std::int64_t) == sizeof(double));
    router_report const to{reinterpret_cast<std::int64_t*>(at), at + c_.routed, at + 2 * c_.routed};
    route<T>::report(rules_, loss_, s_.router, s_.rows, starts(), s_.factors, to, t_.report_sums,
                     p_.on.stream);
  }
  /// Zeroes gradients that nothing is added to.
  void begin(mixture_weights<T> const& dw) const {
    if (p_.gradients == gradients::accumulate) return;
    auto const clear = [&](T* data, std::int64_t count) {
      if (data) runtime::fill(data, 0, count * static_cast<std::int64_t>(sizeof(T)), p_.on.stream);
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
  bool routed_, shared_;
  mixture_weights<T const> w_;
  mixture_saved<T> s_;
  mixture_scratch<T> t_;
  routing_rules rules_;
  balance_terms loss_;
  expert_products<T> products_;
  Experts experts_;
};

template <class T, config C, bool Shared, bool Routed>
struct mixture_plan {
  using X = basic_cuda<T>;
  static_assert(
      !unsupported(C, {}, false),
      "on cuda, hidden and width are multiples of 8, routed is 1024 at most, and there is "
      "no expert_choice, rule or cosine: see cuda/supported.hpp");

  struct saved : mixture_saved<T> {
    constexpr saved(arena& memory, extent e) : mixture_saved<T>(memory, e, C, Shared, Routed) {}
  };
  struct scratch : mixture_scratch<T> {
    constexpr scratch(arena& memory, extent e) : mixture_scratch<T>(memory, e, C, Shared, Routed) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    check_dense(x, "x"), check_dense(y, "y");
    mixture_pass(p, layer, Shared, Routed, views<T const>(w), s, x.data, experts_of(p.on, w))
        .forward(nullptr, y.data);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    check_dense(dy, "dy"), check_dense(dx, "dx");
    mixture_pass<T>(p, layer, Shared, Routed, views<T const>(w), s, x.data)
        .backward(dy.data, views<T>(dw), nullptr, dx.data);
  }

  template <class U, class W>
  static mixture_weights<U> views(W const& w) {
    mixture_weights<U> v;
    if constexpr (Shared) add_shared(v, shared_of(w));
    if constexpr (Routed) add_routed(v, routed_of(w));
    return v;
  }
  /// Kernels read rows 16 bytes at a time, one after the other.
  template <class U>
  static void check_dense(matrix<U> m, char const* what) {
    if (m.rows > 1 && m.stride != m.cols)
      throw invalid_argument("on cuda the rows of %s must lie one after the other", what);
    if (reinterpret_cast<std::uintptr_t>(m.data) % 16 != 0)
      throw invalid_argument("on cuda %s must start on a border of 16 bytes", what);
  }
  static constexpr config layer = C;
  /// What makes forward's products: of weights as stored, or of frozen ones.
  template <class W>
  static auto experts_of(X const& on, W const& w) {
    using part = std::remove_cvref_t<decltype(routed_of(w))>;
    if constexpr (Frozen<part>) {
      frozen_layer<T, part::number> v{.activations = on.activations};
      if constexpr (Shared) v.shared = shared_of(w).codes;
      if constexpr (Routed) v.routed = routed_of(w).codes;
      return v;
    } else {
      return experts<T>{};
    }
  }

 private:
  /// The weights of a part: a mixture of both has two.
  template <class W>
  static auto const& shared_of(W const& w) {
    if constexpr (Shared && Routed)
      return w.a;
    else
      return w;
  }
  template <class W>
  static auto const& routed_of(W const& w) {
    if constexpr (Shared && Routed)
      return w.b;
    else
      return w;
  }
  template <class U, class W>
  static void add_shared(mixture_weights<U>& v, W const& w) {
    if constexpr (!Frozen<W>)
      v.shared_gate = w.gate.data, v.shared_up = w.up.data, v.shared_down = w.down.data;
    if constexpr (requires { w.shared_gate; })
      if (C.shared_gate) v.shared_gate_weights = w.shared_gate.data;
  }
  template <class U, class W>
  static void add_routed(mixture_weights<U>& v, W const& w) {
    v.router = router_weights<U>(w);
    if constexpr (!Frozen<W>) v.gate = w.gate.data, v.up = w.up.data, v.down = w.down.data;
  }
};

}  // namespace device

template <class T, config C>
struct plan<basic_cuda<T>, shared_experts<C>> : device::mixture_plan<T, C, true, false> {};
template <class T, config C>
struct plan<basic_cuda<T>, routed_experts<C>> : device::mixture_plan<T, C, false, true> {};
template <class T, config C>
struct plan<basic_cuda<T>, mixture<C>> : device::mixture_plan<T, C, (C.shared > 0), true> {};

/// A dense block is a shared expert alone.
template <class T, int D, int F, activation Act>
struct plan<basic_cuda<T>, mlp<D, F, Act>>
    : device::mixture_plan<
          T, config{.hidden = D, .width = F, .routed = 1, .top_k = 1, .shared = 1, .act = Act},
          true, false> {};

/// x + mixture(rmsnorm(x)): the residual is added in the combine, and in backward in the norm.
template <class T, int D, config C>
struct plan<basic_cuda<T>, residual_of<then<rmsnorm<D>, mixture<C>>>> {
  using X = basic_cuda<T>;
  using layer = plan<X, mixture<C>>;

  struct saved {
    matrix<T> rows;      // (T, D) of the norm
    float* inverse_rms;  // (T)
    typename layer::saved mixture;
    constexpr saved(arena& memory, extent e)
        : rows(memory.matrix<T>(e.tokens, D)),
          inverse_rms(memory.take<float>(e.tokens)),
          mixture(memory, e) {}
  };
  struct scratch {
    matrix<T> drows;  // (T, D)
    float* sums;
    arena rest;
    constexpr scratch(arena& memory, extent e)
        : drows(memory.matrix<T>(e.training ? e.tokens : 0, D)),
          sums(memory.take<float>(e.training ? device::norm_parts(e.tokens, D) * D : 0)),
          rest(memory) {
      static_cast<void>(typename layer::scratch(memory, e));
    }
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    layer::check_dense(x, "x"), layer::check_dense(y, "y");
    p.scratch = scratch(p.scratch, p.extent).rest;
    device::norm<T>::forward(x, w.a.a.gain.data, static_cast<float>(rmsnorm<D>::epsilon), s.rows,
                             s.inverse_rms, p.on.stream);
    device::mixture_pass(p, layer::layer, (C.shared > 0), true,
                         layer::template views<T const>(w.a.b), s.mixture, s.rows.data,
                         layer::experts_of(p.on, w.a.b))
        .forward(x.data, y.data);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    layer::check_dense(dy, "dy"), layer::check_dense(dx, "dx");
    scratch const t(p.scratch, p.extent);
    p.scratch = t.rest;
    device::mixture_pass<T>(p, layer::layer, (C.shared > 0), true,
                            layer::template views<T const>(w.a.b), s.mixture, s.rows.data)
        .backward(dy.data, layer::template views<T>(dw.a.b), nullptr, t.drows.data);
    device::norm<T>::backward(x, w.a.a.gain.data, s.inverse_rms, t.drows, dy, t.sums,
                              dw.a.a.gain.data, p.gradients, dx, p.on.stream);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
