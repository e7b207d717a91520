// router_pass: one pass of a layer's router on the device, and of the gate before its shared expert.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/weights.hpp"
#include "combine.hpp"
#include "mixture_memory.hpp"
#include "place.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// N is lane_numbers of the routed experts, or 0 where there are none, Rarer whether their router is,
/// and Biased whether it has a selection bias: so a program calls, and needs in its .cu file, no other
/// router's code.
template <class T, int N, bool Rarer, bool Biased>
class router_pass {
 public:
  using X = basic_cuda<T>;
  router_pass(pass<X> const& p, config const& c, bool shared, mixture_weights<T const> const& w,
              mixture_saved<T> const& saved, mixture_scratch<T> const& scratch, T const* x)
      : p_(p),
        c_(c),
        shared_(shared),
        w_(w),
        s_(saved),
        t_(scratch),
        x_(x),
        tokens_(p.extent.tokens),
        rules_(c, p.batch.routing),
        kinds_(c, p.batch.routing, p.extent),
        loss_(c, p.batch.routing) {
    if (routed_) s_.rows.slots = rules_.k;
    s_.router.arrivals = p_.on.context->arrivals.data();
    if (!(loss_.sequence > 0)) s_.router.best = nullptr;  // nobody reads it
  }

  /// Of the routed experts; k slots a token, as this pass asks.
  row_map const& rows() const { return s_.rows; }
  /// (T), or null where it is 1.
  float const* shared_weight() const {
    return shared_ && weighs_shared(c_) ? s_.router.shared_weight : nullptr;
  }

  /// Each token's experts, their weights and rows; what balance losses are made of; the report.
  void forward() {
    if constexpr (routed_) {
      choose();
      balance();
      if (p_.batch.log) report();
    }
    if (shared_weight())
      route<T>::shared_weight(rules_, w_.shared_gate_weights, x_, s_.router.shared_weight, tokens_,
                              stream());
  }

  /// Gradients of the router's weights and of the shared gate's, from the experts' dots. Returns what
  /// combine adds to dx for them; the rest of that is then in `add`.
  router_part<T> backward(mixture_weights<T> const& dw, T const*& add) {
    bool const gated = shared_ && c_.shared_gate, learns = routed_ && c_.has_router();
    if constexpr (routed_)
      if (learns)
        route<T>::backward(rules_, loss_, {t_.dot, dot_parts(c_.width)}, s_.router, s_.rows,
                           starts(), s_.factors, t_.dlogits, stream());
    if constexpr (routed_ && Rarer)
      if (kinds_.by_batch)
        kinds<T>::give({t_.dot, dot_parts(c_.width)}, s_.kinds, s_.rows, stream());
    if (gated)
      route<T>::shared_backward(rules_, {t_.shared_dot, dot_parts(c_.shared * c_.width)},
                                s_.router.shared_weight, t_.dgate, tokens_, stream());
    return weights_backward(dw, learns && !c_.given_logits, gated, add);
  }

 private:
  void choose() {
    if (kinds_.plain() && !c_.given_logits)
      choice<T, N>::forward(rules_, router(), x_, p_.batch.ids.data(), s_.router, s_.rows,
                            t_.block_counts, stream());
    else
      choose_rarer();
  }
  /// Of a router that is not plain, or drops, or whose logits are there.
  void choose_rarer() {
    batch const& b = p_.batch;
    if (kinds_.random())
      kinds<T>::keep_seed(b.routing.seed, b.routing.step, b.log ? b.log->next : 0, s_.kinds,
                          stream());
    router_state state = s_.router;
    if constexpr (Rarer) {
      if (!c_.given_logits)
        kinds<T>::logits(rules_, kinds_, further(), x_, state, s_.kinds, t_.kinds, tokens_,
                         stream());
      if (kinds_.by_rule) {
        kinds<T>::scores(rules_, state, tokens_, stream());
        detail::rule_as<cuda_routing_rule const&>(*b.routing.rule)
            .enqueue(b, {state.scores, tokens_, rules_.routed}, {state.experts, tokens_, rules_.k},
                     stream());
        kinds<T>::distinct(rules_, state, tokens_, stream());
      }
      if (kinds_.by_batch) {
        given_choice const& choice = b.given[b.taken++];
        kinds<T>::take(rules_, choice.experts, choice.weights, choice.dweights, state, s_.kinds,
                       tokens_, stream());
      }
      kinds<T>::prepare(rules_, kinds_, state, t_.kinds, tokens_, stream());
      if (kinds_.sinkhorn) state.keys = t_.kinds.keys;
    } else if (!c_.given_logits) {
      route<T>::logits(rules_, router().router, x_, state.logits, tokens_, stream());
    }
    choice<T, N>::choose(rules_, router(), b.ids.data(), state, s_.rows, t_.block_counts, stream());
    kinds<T>::drop(rules_, kinds_, state, s_.kinds, starts(), s_.rows, t_.block_counts, stream());
  }
  /// Factors of the losses, which the report and backward read.
  void balance() {
    count_earlier();
    if (loss_.rule && !loss_.by_sequence && tokens_ > 0) ask_balance_rule();
    if constexpr (Rarer)
      if (kinds_.noisy && loss_.load > 0 && tokens_ > 0) {
        kinds<T>::load(rules_, loss_.load, s_.router, s_.kinds, t_.kinds, tokens_, stream());
        loss_.smooth = s_.kinds.smooth;
      }
    route<T>::balance(rules_, loss_, s_.router, s_.rows, starts(), s_.factors, stream());
    if (loss_.rule && loss_.by_sequence) ask_balance_rule_by_sequence();
  }
  /// Counts of the step's earlier batches join the losses'.
  void count_earlier() {
    routing_log const* const log = p_.batch.routing.earlier;
    if (!log || !p_.batch.log || p_.batch.log->next >= log->layers.size()) return;
    routing_report const& before = log->layers[p_.batch.log->next];
    runtime::enqueue_copy(t_.earlier, before.load.data(), bytes_of<std::int64_t>(c_.routed),
                          stream());
    loss_.earlier = t_.earlier;
    loss_.earlier_tokens = before.tokens;
  }
  void ask_balance_rule() {
    kinds<T>::chosen(rules_, loss_, s_.router, t_.kinds, tokens_, stream());
    loss_.of_rule = factors_of_rule();
  }
  /// The other losses' factors are there: the rule's are added, a sequence after the other.
  void ask_balance_rule_by_sequence() {
    if (tokens_ == 0) return;
    sequence_starts const all = starts();
    for (int s = 0; s < all.count; ++s) {
      kinds<T>::chosen_in(all, s, rules_, loss_, s_.router, t_.kinds, tokens_, stream());
      factors_of_rule();
      kinds<T>::add_factors(all, s, rules_, t_.kinds, tokens_, s_.factors.factors, stream());
    }
  }
  /// What a rule makes of t_.kinds.rule.
  double const* factors_of_rule() {
    auto const R = static_cast<std::size_t>(c_.routed);
    double* const factors = t_.kinds.rule + R;
    auto const& rule = detail::rule_as<cuda_balance_rule const&>(*p_.batch.routing.balance.rule);
    rule.enqueue(std::span<double const>(t_.kinds.rule, R), std::span<double>(factors, R),
                 stream());
    return factors;
  }
  void report() {
    routing_log& log = *p_.batch.log;
    double* at = p_.on.context->reports.get();
    for (std::size_t l = 0; l < log.next; ++l)
      at += router_report::numbers(std::ssize(log.layers[l].load));
    routing_report& kept = finegrain::detail::next_report(log);
    router_report const to(at, c_.routed);
    route<T>::report(rules_, loss_, router().bias, s_.router, s_.rows, starts(), s_.factors, to,
                     t_.report_sums, stream());
    kept.quantiles = p_.batch.routing.quantiles;
    if constexpr (Biased)
      if (kept.quantiles)
        kinds<T>::quantiles(rules_, router().bias, s_.router, t_.kinds, tokens_, to.quantile,
                            stream());
    if (kept.experts.empty()) return;
    kept.slots = rules_.k;
    std::int64_t const count = tokens_ * rules_.k;
    runtime::enqueue_copy(kept.experts.data(), s_.router.experts, bytes_of<std::int32_t>(count),
                          stream());
    runtime::enqueue_copy(kept.weights.data(), s_.router.weights, bytes_of<float>(count), stream());
  }
  router_part<T> weights_backward(mixture_weights<T> const& dw, bool learns, bool gated,
                                  T const*& add) {
    T const* x = x_;
    router_weights<T> const& d = dw.router;
    auto const product = [&](int columns, float const* gradient, T* to, float const* dgate) {
      if (columns > 0 || dgate)
        route<T>::weights_backward(c_.hidden, columns, x, gradient, dgate, to,
                                   dw.shared_gate_weights, p_.gradients, t_.router_sums, tokens_,
                                   stream());
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
                                 tokens_, stream());
        noise = {t_.kinds.dspread, w_.router.noise.data, c_.routed};
      }
      if (learns && kinds_.cosine > 0) {
        kinds<T>::cosine_backward(rules_, kinds_.cosine, further(), s_.router, s_.kinds, t_.kinds,
                                  t_.dlogits,
                                  {d.router.data, d.project.data, d.temperature.data, d.noise.data},
                                  p_.gradients, tokens_, stream());
        part.routed = kinds_.cosine, part.dlogits = t_.kinds.dprojected;
        part.router = w_.router.project.data, dproduct = d.project.data;
      }
      if (!learns || !kinds_.apart()) {
        product(part.routed, part.dlogits, dproduct, part.dgate);
        return part;
      }
      product(0, nullptr, nullptr, part.dgate);  // x without jitter
      if (kinds_.jitter > 0) {
        kinds<T>::jitter(rules_, kinds_.jitter, x, s_.kinds, t_.kinds, tokens_, stream());
        x = t_.kinds.input;
      }
      product(part.routed, part.dlogits, dproduct, nullptr);
      product(noise.columns, noise.d, d.noise.data, nullptr);
      kinds<T>::input_backward(rules_, kinds_.jitter, {part.dlogits, part.router, part.routed},
                               noise, s_.kinds, t_.kinds, add, tokens_, stream());
      add = t_.kinds.dinput;
      part.routed = 0;
      return part;
    }
  }
  router_numbers<T> router() const {
    auto const& r = w_.router;
    return {r.router.data, finegrain::detail::with_rest(r.bias.data, r.bias.size()),
            finegrain::detail::with_rest(r.table.data, r.table.size()), w_.shared_gate_weights};
  }
  kind_numbers<T const> further() const {
    auto const& r = w_.router;
    return {r.router.data, r.project.data, r.temperature.data, r.noise.data};
  }
  sequence_starts starts() const {
    if (p_.batch.starts.empty()) return {};
    return {p_.batch.starts.data(), static_cast<int>(p_.batch.sequences())};
  }
  CUstream_st* stream() const { return p_.on.stream; }

  pass<X> p_;
  config const& c_;
  static constexpr bool routed_ = N > 0;
  bool shared_;
  mixture_weights<T const> w_;
  mixture_saved<T> s_;
  mixture_scratch<T> t_;
  T const* x_;  // (T, D)
  std::int64_t tokens_;
  routing_rules rules_;
  router_kinds kinds_;
  balance_terms loss_;
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
