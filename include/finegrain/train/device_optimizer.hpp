// device_optimizer: the optimizer of `cuda`, whose weights learn in f32 beside the network's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>
#include <type_traits>
#include <vector>

#include "../cuda/adamw.hpp"
#include "../cuda/elementwise.hpp"
#include "../cuda/place.hpp"
#include "device_update.hpp"
#include "optimizer.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// On the device weights of 16 bits are copies of those in f32 that learn.
template <class T>
class optimizer<basic_cuda<T>> {
 public:
  using X = basic_cuda<T>;
  using N = float;

  optimizer(X const& on, std::vector<weight_entry> const& entries,
            std::vector<weight_group> const& groups, std::vector<router_biases> const& routers,
            std::span<T> weights)
      : entries_(entries),
        moving_(trained_ranges(entries, groups)),
        count_(static_cast<std::int64_t>(weights.size())),
        numbers_(3 * count_) {
    std::copy_if(entries.begin(), entries.end(), std::back_inserter(summed_),
                 [](weight_entry const& entry) { return detail::has_rest(entry.role); });
    std::vector<device::weight_range> ranges;
    std::erase_if(moving_, [](trained_range const& r) { return r.rate == 0; });
    for (trained_range const& r : moving_) ranges.push_back({r.offset, r.count, r.rate, r.decay});
    ranges_ = device_buffer<device::weight_range>(static_cast<std::int64_t>(ranges.size()));
    partial_ = device_buffer<double>(ranges_.size());
    device::runtime::copy(ranges_.data(), ranges.data(), ranges_.bytes(), on.stream);
    device::elementwise<T>::widen(weights.data(), numbers_.data(), count_, on.stream);
    device::runtime::fill(numbers_.data() + count_, 0, 2 * device::bytes_of<float>(count_),
                          on.stream);
    follow_sums(on, weights);
    std::vector<device::router_place> places;
    std::int64_t report = 0, load = 0;
    for (router_biases const& r : routers) {
      places.push_back({.report = report,
                        .load = load,
                        .bias = r.offset,
                        .rest = r.offset + detail::padded(r.experts),
                        .experts = r.experts});
      report += device::router_report::numbers(r.experts), load += r.experts;
    }
    routers_ = device_buffer<device::router_place>(static_cast<std::int64_t>(places.size()));
    loads_ = device_buffer<std::int64_t>(load);
    device::runtime::copy(routers_.data(), places.data(), routers_.bytes(), on.stream);
    begin_at(on, 0);
  }

  /// Whatever is asked for, weights of 16 bits are rounded as they are written.
  void prepare(X const&, weight_rounding how, update_rule const* rule) {
    if (rule && !detail::rule_as<cuda_update_rule<T> const*>(rule))
      throw invalid_argument(
          "on cuda, an optimiser of your own must be a cuda_update_rule of the network's numbers");
    if (sizeof(T) > 2 && how != weight_rounding::in_products)
      throw invalid_argument("this network's weights are f32, and nothing rounds them");
    if (how == weight_rounding::stochastic && !std::is_same_v<T, bf16>)
      throw invalid_argument("weights are rounded by chance to bf16, not to fp16");
    rounding_ = how;
  }
  /// Enqueues a step, as all of these but `figures`, `change`, `read` and `write`, which wait.
  void step(X const& on, adamw const& how, optimizer_step const& at, T const* g,
            std::span<T> weights) {
    device::adamw_numbers const same{how.beta1, how.beta2, how.epsilon, how.weight_decay};
    device::adamw<T>::gradient_norm(same, {how.lr, at.schedule, at.clip, at.gathered},
                                    ranges_.data(), ranges_.size(), g, partial_.data(),
                                    on.context->loss.data(), at.terms, step_.data(), on.stream);
    std::int64_t left = 0;  // the first range that nobody has moved
    auto const by_adamw = [&](std::int64_t end) {
      device::adamw<T>::update(same, ranges_.data() + left, end - left, g, numbers_.data(),
                               numbers_.data() + count_, numbers_.data() + 2 * count_,
                               weights.data(), step_.data(), on.stream);
    };
    if (at.update)
      for_weights([&](trained_range const& r, std::int64_t begin, std::int64_t end) {
        if (!move_by_rule(on, *at.update, r, g, weights)) return;
        by_adamw(begin);
        left = end;
      });
    by_adamw(ranges_.size());
    rounding_ = at.rounding;
    round_by_chance(on, weights);
  }
  /// The network's own weights are the copy, and nothing is lent.
  struct lent {};
  lent lend(X const&, std::span<T const>) const { return {}; }
  /// If others than `step` have changed some, the weights that learn become those; of weights that have
  /// a rest by way of the host.
  void follow(X const& on, std::span<T> weights, weight_rounding, bool changed) {
    if (!changed) return;
    device::elementwise<T>::follow(weights.data(), numbers_.data(), count_, by_chance_, on.stream);
    follow_sums(on, weights);
  }
  optimizer_figures figures(X const& on) const {
    device::adamw_step now;
    device::runtime::copy(&now, step_.data(), sizeof now, on.stream);
    return {now.norm, now.loss, now.terms};
  }
  void begin_at(X const& on, std::int64_t steps) {
    device::adamw_step const now{.step = steps};
    device::runtime::copy(step_.data(), &now, sizeof now, on.stream);
  }
  /// Steps done, where passes on the device can read them.
  std::int64_t const* steps() const { return &step_.data()->step; }
  /// Counts the choices of a batch whose pass was the last one with a log.
  void count_choices(X const& on, gradients mode) {
    device::adamw<T>::add_loads(routers_.data(), routers_.size(), on.context->reports.get(), mode,
                                loads_.data(), on.stream);
  }
  /// Moves selection biases by what was counted, as trainer does elsewhere.
  void move_biases(X const& on, double speed, bool centre, std::span<T> weights) {
    device::adamw<T>::move_biases(routers_.data(), routers_.size(), loads_.data(), speed, centre,
                                  numbers_.data(), weights.data(), step_.data(), on.stream);
  }
  template <class F>
  void change(X const& on, std::span<T> weights, std::int64_t offset, std::int64_t count, F&& f) {
    auto const some = change_numbers(on, offset, count, f);
    store_sums(on, some.data(), count, weights.data() + offset);
  }

  struct numbers {
    buffer<float> all;
    std::span<float> weights, first, second;
  };
  numbers read(X const& on, std::span<T>) const {
    numbers made{buffer<float>(3 * count_), {}, {}, {}};
    device::runtime::copy(made.all.data(), numbers_.data(), numbers_.bytes(), on.stream);
    auto const n = static_cast<std::size_t>(count_);
    made.weights = {made.all.data(), n};
    made.first = {made.all.data() + n, n};
    made.second = {made.all.data() + 2 * n, n};
    return made;
  }
  void write(X const& on, numbers const& from, std::span<T> weights) {
    device::runtime::copy(numbers_.data(), from.all.data(), numbers_.bytes(), on.stream);
    device::elementwise<T>::narrow(numbers_.data(), weights.data(), count_, on.stream);
    for (weight_entry const& entry : summed_)
      store_sums(on, from.weights.data() + entry.offset, entry.rows * entry.cols,
                 weights.data() + entry.offset);
    round_by_chance(on, weights);
  }

 private:
  /// f(first range, begin, end) for each weight that learns, and its ranges [begin, end).
  template <class F>
  void for_weights(F&& f) const {
    auto const entry = [&](std::int64_t i) { return moving_[std::size_t(i)].entry; };
    for (std::int64_t begin = 0, end = 0; begin < std::ssize(moving_); begin = end) {
      while (end < std::ssize(moving_) && entry(end) == entry(begin)) ++end;
      f(moving_[std::size_t(begin)], begin, end);
    }
  }
  /// Whether the rule moves the weight of this range; if so the network's own is written.
  bool move_by_rule(X const& on, update_rule const& rule, trained_range const& r, T const* g,
                    std::span<T> weights) {
    weight_entry const& e = entries_[r.entry];
    auto const at = [&](auto* all) { return matrix(all + e.offset, e.rows, e.cols); };
    float* const w = numbers_.data();
    bool const moved =
        detail::rule_as<cuda_update_rule<T> const&>(rule).enqueue({.name = e.name,
                                                                   .role = e.role,
                                                                   .weight = at(w),
                                                                   .gradient = at(g),
                                                                   .first = at(w + count_),
                                                                   .second = at(w + 2 * count_),
                                                                   .step = step_.data(),
                                                                   .rate = r.rate,
                                                                   .decay = r.decay},
                                                                  on.stream);
    if (moved)
      device::elementwise<T>::narrow(w + e.offset, weights.data() + e.offset, e.rows * e.cols,
                                     on.stream);
    return moved;
  }
  /// f(numbers that learn, `count` from `offset` on), on the host; what they then are.
  template <class F>
  std::vector<float> change_numbers(X const& on, std::int64_t offset, std::int64_t count, F&& f) {
    std::vector<float> some(static_cast<std::size_t>(count));
    device::runtime::copy(some.data(), numbers_.data() + offset, device::bytes_of<float>(count),
                          on.stream);
    f(some.data());
    device::runtime::copy(numbers_.data() + offset, some.data(), device::bytes_of<float>(count),
                          on.stream);
    return some;
  }
  /// Writes the weights again, by chance, if that is asked for.
  void round_by_chance([[maybe_unused]] X const& on, [[maybe_unused]] std::span<T> weights) {
    if (rounding_ != weight_rounding::stochastic) return;
    by_chance_ = true;
    if constexpr (std::is_same_v<T, bf16>)
      device::chance_rounding<void>::write(ranges_.data(), ranges_.size(), numbers_.data(),
                                           weights.data(), step_.data(), on.stream);
  }
  /// Numbers that have a rest become what the network has of both, where those are not its halves.
  void follow_sums(X const& on, std::span<T> weights) {
    for (weight_entry const& entry : summed_) {
      std::int64_t const n = entry.rows * entry.cols, apart = detail::padded(n);
      std::vector<T> const parts =
          place<X>::fetched(on, weights.subspan(std::size_t(entry.offset),
                                                std::size_t(detail::stored_size(n, entry.role))));
      auto const sums = detail::with_rest<T>(parts.data(), n);
      change_numbers(on, entry.offset, n, [&](float* mine) {
        for (std::int64_t i = 0; i < n; ++i) {
          T first, rest;
          summed<T>::write(mine[i], first, rest);
          if (float(first) != float(parts[std::size_t(i)]) ||
              float(rest) != float(parts[std::size_t(apart + i)]))
            mine[i] = sums[i];
        }
      });
    }
  }
  /// Writes `count` numbers to `to` and what rounding leaves of them to their rest.
  static void store_sums(X const& on, float const* from, std::int64_t count, T* to) {
    std::int64_t const apart = detail::padded(count);
    std::vector<T> parts(static_cast<std::size_t>(apart + count));
    for (std::int64_t i = 0; i < count; ++i)
      summed<T>::write(from[i], parts[std::size_t(i)], parts[std::size_t(apart + i)]);
    place<X>::store(on, parts, {to, parts.size()});
  }

  std::vector<weight_entry> entries_;
  std::vector<trained_range> moving_;  // those of ranges_
  std::int64_t count_;
  std::vector<weight_entry> summed_;  // weights that have a rest
  device_buffer<float> numbers_;      // weights, first and second moments
  device_buffer<device::weight_range> ranges_;
  device_buffer<device::router_place> routers_;
  device_buffer<std::int64_t> loads_;  // of all routers, in a step's batches
  device_buffer<double> partial_;
  device_buffer<device::adamw_step> step_{1};
  weight_rounding rounding_ = weight_rounding::in_products;
  bool by_chance_ = false;  // the network's weights may have been rounded so
};

}  // namespace finegrain::inline FINEGRAIN_ABI
