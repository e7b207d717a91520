// optimizer: what AdamW keeps of a network's weights, and its step: of networks on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "../plan/schedule.hpp"
#include "adamw.hpp"
#include "biases.hpp"
#include "update.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Numbers of one step beside AdamW's own.
struct optimizer_step {
  finegrain::schedule schedule = {};    // factor of the learning rate
  double clip = 0;                      // the gradient's norm is cut to this; 0: never
  double gathered = 1;                  // batches that the gradient is the sum of, times its scale
  std::int64_t const* terms = nullptr;  // of the last batch's loss, where the executor counted them
  weight_rounding rounding = weight_rounding::in_products;
  update_rule const* update = nullptr;  // what moves weights before AdamW is asked
};

/// What a step did, as far as the executor's memory knows.
struct optimizer_figures {
  double norm = 0;         // of the gradient's mean; if that is not finite, nothing has moved
  double loss = 0;         // the sum of the last batch's, if the executor adds it up
  std::int64_t terms = 0;  // and its terms, if the executor counted them
};

/// On the host the weights that learn are the network's own; N is their scalar. If they are to be
/// rounded as they are written, a step writes a copy in bf16, which passes are lent.
template <class X>
class optimizer {
 public:
  using S = typename X::scalar;
  using N = S;

  optimizer(X const&, std::vector<weight_entry> const& entries,
            std::vector<weight_group> const& groups, std::vector<router_biases> const&,
            std::span<S> weights)
      : entries_(entries),
        ranges_(trained_ranges(entries, groups)),
        partial_(ranges_.size()),
        moments_(2 * static_cast<std::int64_t>(weights.size())) {
    left_.reserve(ranges_.size());  // a step takes no memory
    std::fill(moments_.begin(), moments_.end(), S(0));
  }

  /// Moves the weights, unless the gradient is not finite.
  void step(X const& on, adamw const& how, optimizer_step const& at, S const* g,
            std::span<S> weights) {
    norm_ = gradient_norm(on.threads, ranges_, g, partial_.data()) / at.gathered;
    if (std::isfinite(norm_))
      move(on, how, at, g, weights);
    else
      round(on, weights, at.rounding, steps_ + 1);
    ++steps_;
  }
  /// Makes room for the copy, if there is to be one. Throws invalid_argument where nothing reads it.
  void prepare(X const& on, weight_rounding how, update_rule const*) {
    if (how == weight_rounding::in_products) return;
    if (!reads_copies(on))
      throw invalid_argument("weights are rounded to bf16 for a cpu that multiplies in bf16");
    if (copy_.size() > 0) return;
    copy_ = buffer<bf16>(moments_.size() / 2);
    rounding_ = weight_rounding::in_products;
  }
  /// The copy is read in place of the weights as long as this lasts.
  class lent {
   public:
    lent(X& on, std::span<S const> weights, bf16 const* copy) : on_(on) {
      if constexpr (requires { on.copy; })
        if (copy) on_.copy = {weights.data(), copy, static_cast<std::int64_t>(weights.size())};
    }
    lent(lent const&) = delete;
    lent& operator=(lent const&) = delete;
    ~lent() {
      if constexpr (requires { on_.copy; }) on_.copy = {};
    }

   private:
    X& on_;
  };
  [[nodiscard]] lent lend(X& on, std::span<S const> weights) const {
    return {on, weights, rounding_ == weight_rounding::in_products ? nullptr : copy_.data()};
  }
  /// If others than `step` have changed weights, the copy is made anew: what step would have made.
  void follow(X const& on, std::span<S> weights, weight_rounding how, bool changed) {
    if (changed || how != rounding_) round(on, weights, how, steps_);
  }
  /// What the last step did. Waits for it.
  optimizer_figures figures(X const&) const { return {.norm = norm_}; }
  /// Steps are counted where they are done.
  void begin_at(X const&, std::int64_t steps) { steps_ = steps; }

  /// Changes selection biases, `count` from `offset` on: f(numbers).
  template <class F>
  void change(X const&, std::span<S> weights, std::int64_t offset, std::int64_t, F&& f) {
    f(weights.data() + offset);
  }

  /// Weights and moments as the host reads them, each laid out as the weights.
  struct numbers {
    std::span<N> weights, first, second;
  };
  numbers read(X const&, std::span<S> weights) const {
    return {weights, first(weights), second(weights)};
  }
  /// Takes what was written into read's numbers.
  void write(X const&, numbers const&, std::span<S>) {}

 private:
  static bool reads_copies([[maybe_unused]] X const& on) {
    if constexpr (requires { on.copy; }) return on.products == format::bf16;
    return false;
  }
  /// By AdamW, but for what a rule moves.
  void move(X const& on, adamw const& how, optimizer_step const& at, S const* g,
            std::span<S> weights) {
    double const clip = at.clip > 0 && norm_ > at.clip ? at.clip / norm_ : 1;
    update_step<S> const step{.number = steps_ + 1,
                              .rate = how.lr * at.schedule.at(steps_),
                              .scale = clip / at.gathered,
                              .gradient = g,
                              .weights = weights.data(),
                              .first = first(weights).data(),
                              .second = second(weights).data()};
    if (!at.update)
      return adamw_update(on.threads, how, step, ranges_, rounded(at.rounding, step.number));
    auto const left = update_by_rule(on.threads, *at.update, how, step, entries_, ranges_, left_);
    adamw_update(on.threads, how, step, left);
    round(on, weights, at.rounding, step.number);
  }
  /// Writes the copy, as step `step` does.
  void round(X const& on, std::span<S> weights, weight_rounding how, std::int64_t step) {
    rounded_weights const made = rounded(how, step);
    if (made.to) round_weights(on.threads, ranges_, weights.data(), made);
  }
  rounded_weights rounded(weight_rounding how, std::int64_t step) {
    rounding_ = how;
    return {how == weight_rounding::in_products ? nullptr : copy_.data(),
            how == weight_rounding::stochastic, random_word(0, static_cast<std::uint64_t>(step))};
  }
  std::span<S> first(std::span<S> weights) const { return {moments_.data(), weights.size()}; }
  std::span<S> second(std::span<S> weights) const {
    return {moments_.data() + weights.size(), weights.size()};
  }

  std::vector<weight_entry> entries_;
  std::vector<trained_range> ranges_, left_;  // all, and those that an update_rule left to AdamW
  std::vector<double> partial_;
  buffer<S> moments_;
  buffer<bf16> copy_;  // of trained weights, laid out as all; empty if nobody asks
  std::int64_t steps_ = 0;
  double norm_ = 0;
  weight_rounding rounding_ = weight_rounding::in_products;  // of the copy
};

}  // namespace finegrain::inline FINEGRAIN_ABI
