// One pass through a layer of experts on the device: route, dispatch, all experts in two launches,
// combine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/weights.hpp"
#include "combine.hpp"
#include "executor.hpp"
#include "experts.hpp"
#include "frozen.hpp"
#include "mixture_memory.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// One pass through a layer of experts: what forward and backward have in common. N is lane_numbers
/// of the routed experts, or 0 where there are none, Rarer whether their router is, and Biased
/// whether it has a selection bias: so a program calls, and needs in its .cu file, no other router's
/// code. Forward asks Experts for its products, which may have weights of their own.
template <class T, int N, bool Rarer, bool Biased, class Experts = experts<T>>
class mixture_pass {
 public:
  using X = basic_cuda<T>;
  mixture_pass(pass<X> const& p, config const& c, bool shared, mixture_weights<T const> const& w,
               mixture_saved<T> const& saved, T const* x, Experts const& experts = {})
      : p_(p),
        c_(c),
        shared_(shared && p.batch.routing.shared),
        w_(w),
        s_(saved),
        t_(p_.scratch, p.extent, c, shared, routed_),
        rules_(c, p.batch.routing),
        kinds_(c, p.batch.routing, p.extent),
        loss_(c, p.batch.routing),
        experts_(experts) {
    if (routed_) s_.rows.slots = rules_.k;
    s_.router.arrivals = p_.on.context->arrivals.data();
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
    if constexpr (routed_) {
      if (kinds_.plain() && !c_.given_logits)
        choice<T, N>::forward(rules_, router(), products_.x, p_.batch.ids.data(), s_.router,
                              s_.rows, t_.block_counts, on);
      else
        route_rarer();
      count_earlier();
      if (loss_.rule && !loss_.by_sequence && p_.extent.tokens > 0) ask_balance_rule();
      if constexpr (Rarer)
        if (kinds_.noisy && loss_.load > 0 && p_.extent.tokens > 0) {
          kinds<T>::load(rules_, loss_.load, s_.router, s_.kinds, t_.kinds, p_.extent.tokens, on);
          loss_.smooth = s_.kinds.smooth;
        }
      route<T>::balance(rules_, loss_, s_.router, s_.rows, starts(), s_.factors, on);
      if (loss_.rule && loss_.by_sequence) ask_balance_rule_by_sequence();
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
    if constexpr (routed_)
      if (learns)
        route<T>::backward(rules_, loss_, {t_.dot, dot_parts(c_.width)}, s_.router, s_.rows,
                           starts(), s_.factors, t_.dlogits, on);
    if (gated)
      route<T>::shared_backward(rules_, {t_.shared_dot, dot_parts(c_.shared * c_.width)},
                                s_.router.shared_weight, t_.dgate, tokens, on);
    router_part<T> const part = router_backward(dw, learns && !c_.given_logits, gated, add);
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
  bool weighed() const { return shared_ && weighs_shared(c_); }
  router_numbers<T> router() const {
    auto const& r = w_.router;
    return {r.router.data, finegrain::detail::with_rest(r.bias.data, r.bias.size()),
            finegrain::detail::with_rest(r.table.data, r.table.size()), w_.shared_gate_weights};
  }
  kind_numbers<T const> further() const {
    auto const& r = w_.router;
    return {r.router.data, r.project.data, r.temperature.data, r.noise.data};
  }
  /// Forward of a router that is not plain, or drops, or whose logits are there.
  void route_rarer() {
    auto const on = p_.on.stream;
    batch const& b = p_.batch;
    if (kinds_.random())
      kinds<T>::keep_seed(b.routing.seed, b.routing.step, b.log ? b.log->next : 0, s_.kinds, on);
    router_state state = s_.router;
    if constexpr (Rarer) {
      if (!c_.given_logits)
        kinds<T>::logits(rules_, kinds_, further(), products_.x, state, s_.kinds, t_.kinds,
                         p_.extent.tokens, on);
      if (kinds_.by_rule) {
        kinds<T>::scores(rules_, state, p_.extent.tokens, on);
        detail::rule_as<cuda_routing_rule const&>(*b.routing.rule)
            .enqueue(b, {state.scores, p_.extent.tokens, rules_.routed},
                     {state.experts, p_.extent.tokens, rules_.k}, on);
        kinds<T>::distinct(rules_, state, p_.extent.tokens, on);
      }
      kinds<T>::prepare(rules_, kinds_, state, t_.kinds, p_.extent.tokens, on);
      if (kinds_.sinkhorn) state.keys = t_.kinds.keys;
    } else if (!c_.given_logits) {
      route<T>::logits(rules_, router().router, products_.x, state.logits, p_.extent.tokens, on);
    }
    choice<T, N>::choose(rules_, router(), b.ids.data(), state, s_.rows, t_.block_counts, on);
    kinds<T>::drop(rules_, kinds_, state, s_.kinds, starts(), s_.rows, t_.block_counts, on);
  }
  void ask_balance_rule() {
    kinds<T>::chosen(rules_, loss_, s_.router, t_.kinds, p_.extent.tokens, p_.on.stream);
    loss_.of_rule = factors_of_rule();
  }
  /// The other losses' factors are there: the rule's are added, a sequence after the other.
  void ask_balance_rule_by_sequence() {
    if (p_.extent.tokens == 0) return;
    sequence_starts const all = starts();
    for (int s = 0; s < all.count; ++s) {
      kinds<T>::chosen_in(all, s, rules_, loss_, s_.router, t_.kinds, p_.extent.tokens,
                          p_.on.stream);
      factors_of_rule();
      kinds<T>::add_factors(all, s, rules_, t_.kinds, p_.extent.tokens, s_.factors.factors,
                            p_.on.stream);
    }
  }
  /// What a rule makes of t_.kinds.rule.
  double const* factors_of_rule() {
    auto const R = static_cast<std::size_t>(c_.routed);
    double* const factors = t_.kinds.rule + R;
    auto const& rule = detail::rule_as<cuda_balance_rule const&>(*p_.batch.routing.balance.rule);
    rule.enqueue(std::span<double const>(t_.kinds.rule, R), std::span<double>(factors, R),
                 p_.on.stream);
    return factors;
  }
  /// Gradients of the router's weights and of the shared gate's. Returns what combine adds to dx for
  /// them; the rest of that is then in `add`.
  router_part<T> router_backward(mixture_weights<T> const& dw, bool learns, bool gated,
                                 T const*& add) {
    auto const on = p_.on.stream;
    std::int64_t const tokens = p_.extent.tokens;
    T const* x = products_.x;
    router_weights<T> const& d = dw.router;
    auto const product = [&](int columns, float const* gradient, T* to, float const* dgate) {
      if (columns > 0 || dgate)
        route<T>::weights_backward(c_.hidden, columns, x, gradient, dgate, to,
                                   dw.shared_gate_weights, p_.gradients, t_.router_sums, tokens,
                                   on);
    };
    router_part<T> part{.routed = learns ? c_.routed : 0,
                        .dlogits = t_.dlogits,
                        .router = w_.router.router.data,
                        .dgate = gated ? t_.dgate : nullptr,
                        .shared_gate = w_.shared_gate_weights};
    if constexpr (!Rarer) {
      product(part.routed, part.dlogits, d.router.data, part.dgate);
      return part;
    } else {
      T* dproduct = d.router.data;
      input_part<T> noise;
      if (learns && kinds_.noisy) {
        kinds<T>::noise_backward(rules_, loss_.load, s_.router, s_.kinds, t_.kinds, t_.dlogits,
                                 tokens, on);
        noise = {t_.kinds.dspread, w_.router.noise.data, c_.routed};
      }
      if (learns && kinds_.cosine > 0) {
        kinds<T>::cosine_backward(rules_, kinds_.cosine, further(), s_.router, s_.kinds, t_.kinds,
                                  t_.dlogits,
                                  {d.router.data, d.project.data, d.temperature.data, d.noise.data},
                                  p_.gradients, tokens, on);
        part.routed = kinds_.cosine, part.dlogits = t_.kinds.dprojected;
        part.router = w_.router.project.data, dproduct = d.project.data;
      }
      if (!learns || !kinds_.apart()) {
        product(part.routed, part.dlogits, dproduct, part.dgate);
        return part;
      }
      product(0, nullptr, nullptr, part.dgate);  // x without jitter
      if (kinds_.jitter > 0) {
        kinds<T>::jitter(rules_, kinds_.jitter, x, s_.kinds, t_.kinds, tokens, on);
        x = t_.kinds.input;
      }
      product(part.routed, part.dlogits, dproduct, nullptr);
      product(noise.columns, noise.d, d.noise.data, nullptr);
      kinds<T>::input_backward(rules_, kinds_.jitter, {part.dlogits, part.router, part.routed},
                               noise, s_.kinds, t_.kinds, add, tokens, on);
      add = t_.kinds.dinput;
      part.routed = 0;
      return part;
    }
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
    runtime::enqueue_copy(t_.earlier, before.load.data(), bytes_of<std::int64_t>(c_.routed),
                          p_.on.stream);
    loss_.earlier = t_.earlier;
    loss_.earlier_tokens = before.tokens;
  }
  void report() {
    routing_log& log = *p_.batch.log;
    double* at = p_.on.context->reports.get();
    for (std::size_t l = 0; l < log.next; ++l)
      at += router_report::numbers(std::ssize(log.layers[l].load));
    routing_report& kept = finegrain::detail::next_report(log);
    router_report const to(at, c_.routed);
    route<T>::report(rules_, loss_, router().bias, s_.router, s_.rows, starts(), s_.factors, to,
                     t_.report_sums, p_.on.stream);
    if constexpr (Biased)
      if (p_.batch.routing.quantiles)
        kinds<T>::quantiles(rules_, router().bias, s_.router, t_.kinds, p_.extent.tokens,
                            to.quantile, p_.on.stream);
    if (kept.experts.empty()) return;
    kept.slots = rules_.k;
    std::int64_t const count = p_.extent.tokens * rules_.k;
    runtime::enqueue_copy(kept.experts.data(), s_.router.experts, bytes_of<std::int32_t>(count),
                          p_.on.stream);
    runtime::enqueue_copy(kept.weights.data(), s_.router.weights, bytes_of<float>(count),
                          p_.on.stream);
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
  mixture_weights<T const> w_;
  mixture_saved<T> s_;
  mixture_scratch<T> t_;
  routing_rules rules_;
  router_kinds kinds_;
  balance_terms loss_;
  expert_products<T> products_;
  Experts experts_;
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
