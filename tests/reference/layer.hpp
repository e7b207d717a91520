// A layer under test: random weights, and memory that is NaN wherever nobody wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <finegrain/plan/init.hpp>
#include <finegrain/plan/plan.hpp>
#include <finegrain/reference/executor.hpp>
#include <limits>
#include <vector>

namespace under_test {

namespace fg = finegrain;
using numbers = std::vector<double>;
inline constexpr double poison = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline fg::basic_reference<double> const on;

inline numbers random_numbers(std::int64_t count, std::uint64_t seed) {
  numbers made;
  for (std::int64_t i = 0; i < count; ++i)
    made.push_back(fg::random_normal(seed, std::uint64_t(i)));
  return made;
}
inline fg::matrix<double> view(numbers& m, std::int64_t rows, std::int64_t cols) {
  return {m.data(), rows, cols};
}
inline fg::matrix<double const> view(numbers const& m, std::int64_t rows, std::int64_t cols) {
  return {m.data(), rows, cols};
}
/// The same bits, NaN included.
inline bool same(numbers const& a, numbers const& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 8));
}
inline double largest_difference(numbers const& a, numbers const& b) {
  double largest = a.size() == b.size() ? 0 : infinity;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= largest)) largest = std::abs(a[i] - b[i]);
  return largest;
}
/// Rows [first, first + count) of a matrix of so many columns.
inline numbers rows(numbers const& m, std::int64_t cols, std::int64_t first, std::int64_t count) {
  return {m.begin() + first * cols, m.begin() + (first + count) * cols};
}
inline numbers joined(numbers a, numbers const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline fg::buffer<> poisoned(std::int64_t bytes) {
  fg::buffer<> memory(bytes);
  std::fill(memory.begin(), memory.end(), std::byte(0xff));  // a NaN of any type
  return memory;
}

template <fg::Expr E>
struct layer {
  using X = fg::basic_reference<double>;
  using plan = fg::plan<X, E>;
  static constexpr int in = fg::in_width<E>(), out = fg::out_width<E>();

  numbers w = random_numbers(fg::weights_size<E>(), 1), dw, dx;

  explicit layer(double deviation = 0.7) {
    for (double& number : w) number *= deviation;
  }
  fg::weights<E, double> weights() { return fg::bind_weights<E, double>(w.data()); }
  fg::weights<E, double> gradients() { return fg::bind_weights<E, double>(dw.data()); }

  numbers forward(numbers const& x, fg::batch b = {}, bool training = false,
                  fg::kv_cache<double>* cache = nullptr) {
    prepare(x, b, training);
    numbers y(std::size_t(batch.tokens * out), poison);
    if (cache) cache->used = 0;
    plan::forward({on, batch, scratch(), extent, {}, cache}, weights(), saved(),
                  view(x, batch.tokens, in), view(y, batch.tokens, out));
    if (cache) cache->grow(batch);
    return y;
  }
  /// Into dw and dx, which are NaN before or, to add to, what `before` is.
  numbers train(numbers const& x, numbers const& dy, fg::batch b = {},
                fg::gradients mode = fg::gradients::overwrite, double before = poison) {
    numbers const y = forward(x, b, true);
    dw.assign(w.size(), before);
    dx.assign(x.size(), poison);
    plan::backward({on, batch, scratch(), extent, mode, nullptr}, weights(), saved(),
                   view(x, batch.tokens, in), view(dy, batch.tokens, out), gradients(),
                   view(dx, batch.tokens, in));
    return y;
  }
  /// Every weight's gradient, without the gaps between weights.
  numbers all_gradients() const {
    numbers all;
    for (auto const& entry : fg::list_weights<E>())
      all.insert(all.end(), dw.begin() + entry.offset,
                 dw.begin() + entry.offset + entry.rows * entry.cols);
    return all;
  }

 private:
  void prepare(numbers const& x, fg::batch b, bool training) {
    batch = b;
    if constexpr (in > 0) batch.tokens = std::int64_t(x.size()) / in;
    extent = {batch.tokens, 1, training};
    saved_memory = poisoned(fg::saved_bytes<X, E>(extent));
  }
  typename plan::saved saved() {
    fg::arena memory(saved_memory.data(), saved_memory.size());
    return typename plan::saved(memory, extent);
  }
  fg::arena scratch() {
    scratch_memory = poisoned(fg::scratch_bytes<X, E>(extent));
    return {scratch_memory.data(), scratch_memory.size()};
  }

  fg::batch batch;
  fg::extent extent;
  fg::buffer<> saved_memory, scratch_memory;
};

}  // namespace under_test
