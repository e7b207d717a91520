// An expression under test: random weights, and memory that is NaN wherever nobody wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <finegrain/base/parallel.hpp>
#include <finegrain/cpu/executor.hpp>
#include <finegrain/plan/blend.hpp>
#include <finegrain/plan/compose.hpp>
#include <finegrain/plan/init.hpp>
#include <finegrain/plan/stages.hpp>
#include <finegrain/plan/weights.hpp>
#include <finegrain/reference/executor.hpp>
#include <limits>
#include <vector>

namespace under_test {

namespace fg = finegrain;
using numbers = std::vector<float>;
inline constexpr float poison = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();

template <class T>
fg::matrix<T> view(std::vector<T>& m, std::int64_t rows, std::int64_t cols) {
  return {m.data(), rows, cols};
}
template <class T>
fg::matrix<T const> view(std::vector<T> const& m, std::int64_t rows, std::int64_t cols) {
  return {m.data(), rows, cols};
}
/// Random numbers that both f32 and double can hold.
inline numbers random_numbers(std::int64_t count, std::uint64_t seed, double deviation = 1) {
  numbers made(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < made.size(); ++i)
    made[i] = static_cast<float>(deviation * fg::random_normal(seed, i));
  return made;
}
/// Whole numbers that bf16 holds, so that every order of summing gives the same.
inline numbers whole_numbers(std::int64_t count, int seed) {
  numbers made(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < made.size(); ++i)
    made[i] = float(int((i * 2654435761u + std::size_t(seed) * 40503u) >> 7 & 15) - 7);
  return made;
}
/// The same bits, NaN included.
inline bool same(numbers const& a, numbers const& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 4));
}
/// The largest difference, in units of the largest number of `exact`; infinite if one is NaN alone.
inline double difference(std::vector<double> const& exact, numbers const& got) {
  double largest = exact.size() == got.size() ? 0 : infinity, magnitude = 0;
  for (std::size_t i = 0; i < got.size() && largest < infinity; ++i) {
    magnitude = std::max(magnitude, std::abs(exact[i]));
    double const d = std::abs(exact[i] - static_cast<double>(got[i]));
    if (!(d <= largest) && !(std::isnan(exact[i]) && std::isnan(got[i])))
      largest = std::isnan(d) ? double{infinity} : d;
  }
  return magnitude > 0 ? largest / magnitude : largest;
}
inline numbers rows(numbers const& m, std::int64_t cols, std::int64_t first, std::int64_t count) {
  return {m.begin() + first * cols, m.begin() + (first + count) * cols};
}
inline numbers joined(numbers a, numbers const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

template <fg::Expr E, class X = fg::cpu>
struct layer {
  using S = typename X::scalar;
  using expression = E;
  using plan = fg::plan<X, E>;
  static constexpr int in = fg::in_width<E>(), out = fg::out_width<E>();

  X on{};
  std::vector<S> w, dw, x, y, dy, dx;
  fg::gradients mode = fg::gradients::overwrite;
  S before = std::numeric_limits<S>::quiet_NaN();  // what gradients hold when backward begins

  explicit layer(X on = {}) : on(on) { set_weights(random_numbers(fg::weights_size<E>(), 1, 0.3)); }
  void set_weights(numbers const& from) { w.assign(from.begin(), from.end()); }
  fg::weights<E, S> weights() { return fg::bind_weights<E, S>(w.data()); }
  fg::weights<E, S> gradients() { return fg::bind_weights<E, S>(dw.data()); }

  std::vector<S> const& forward(numbers const& input, fg::batch b = {}, bool training = false,
                                fg::kv_cache<S>* cache = nullptr) {
    x.assign(input.begin(), input.end());
    if constexpr (in > 0) b.tokens = static_cast<std::int64_t>(x.size()) / in;
    y.assign(static_cast<std::size_t>(b.tokens * out), std::numeric_limits<S>::quiet_NaN());
    return run(b, view(std::as_const(x), b.tokens, in), view(y, b.tokens, out), training, cache), y;
  }
  void run(fg::batch const& b, fg::matrix<S const> from, fg::matrix<S> to, bool training = false,
           fg::kv_cache<S>* cache = nullptr) {
    batch = b;
    extent = fg::extent_on(on, b.tokens, training);
    saved_memory = poisoned(fg::saved_bytes<X, E>(extent));
    scratch_memory = poisoned(fg::scratch_bytes<X, E>(extent));
    if (batch.log) batch.log->next = 0;
    if (cache) cache->used = 0;
    plan::forward({on, batch, scratch(), extent, mode, cache}, constant_weights(), saved(), from,
                  to);
    if (cache) cache->grow(b);
  }
  /// Forward, then backward into dw and dx.
  layer& train(numbers const& input, numbers const& output_gradient, fg::batch const& b = {}) {
    forward(input, b, true);
    dy.assign(output_gradient.begin(), output_gradient.end());
    dw.assign(w.size(), before);
    dx.assign(x.size(), std::numeric_limits<S>::quiet_NaN());
    scratch_memory = poisoned(fg::scratch_bytes<X, E>(extent));
    plan::backward({on, batch, scratch(), extent, mode, nullptr}, constant_weights(), saved(),
                   view(std::as_const(x), batch.tokens, in),
                   view(std::as_const(dy), batch.tokens, out), gradients(),
                   view(dx, batch.tokens, in));
    return *this;
  }
  /// Every weight's gradient, without the gaps between weights.
  std::vector<S> all_gradients() const {
    std::vector<S> all;
    for (auto const& entry : fg::list_weights<E>())
      all.insert(all.end(), dw.begin() + entry.offset,
                 dw.begin() + entry.offset + entry.rows * entry.cols);
    return all;
  }

 private:
  static fg::buffer<> poisoned(std::int64_t bytes) {
    fg::buffer<> memory(bytes);
    std::fill(memory.begin(), memory.end(), std::byte(0xff));  // a NaN of any type
    return memory;
  }
  fg::weights<E, S const> constant_weights() { return fg::bind_weights<E, S const>(w.data()); }
  typename plan::saved saved() {
    fg::arena memory(saved_memory.data(), saved_memory.size());
    return typename plan::saved(memory, extent);
  }
  fg::arena scratch() { return {scratch_memory.data(), scratch_memory.size()}; }

  fg::batch batch;
  fg::extent extent;
  fg::buffer<> saved_memory, scratch_memory;
};

/// The same expression on the specification, in double.
template <fg::Expr E>
using exact_layer = layer<E, fg::basic_reference<double>>;

/// How far values and gradients of cpu are from the specification's: the worst of y, dx, and every
/// weight's gradient, each in units of its largest number.
template <fg::Expr E>
double distance(numbers const& x, numbers const& dy, fg::batch const& b = {}, fg::cpu on = {}) {
  layer<E> fast(on);
  exact_layer<E> exact;
  fast.train(x, dy, b);
  exact.train(x, dy, b);
  double worst = std::max(difference(exact.y, fast.y), difference(exact.dx, fast.dx));
  for (auto const& entry : fg::list_weights<E>()) {
    auto const cut = [&](auto const& all) {
      return std::decay_t<decltype(all)>(all.begin() + entry.offset,
                                         all.begin() + entry.offset + entry.rows * entry.cols);
    };
    worst = std::max(worst, difference(cut(exact.dw), cut(fast.dw)));
  }
  return worst;
}

}  // namespace under_test
