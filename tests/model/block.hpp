// A block of a transformer in small, and matrices of numbers for its calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "executors.hpp"

namespace small {

namespace fg = finegrain;

inline constexpr fg::config moe{.hidden = 16, .width = 12, .routed = 6, .top_k = 2, .shared = 1};
struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<16>{} | fg::attention<16, 2>{}) |
                               fg::residual(fg::rmsnorm<16>{} | fg::mixture<moe>{});
};

/// A matrix with its numbers, NaN at first.
template <class S>
struct numbers {
  std::int64_t rows, cols;
  std::vector<S> values;
  numbers(std::int64_t rows, std::int64_t cols)
      : rows(rows), cols(cols), values(std::size_t(rows * cols), S(NAN)) {}
  static numbers random(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    numbers n(rows, cols);
    for (std::size_t i = 0; i < n.values.size(); ++i) n.values[i] = S(fg::random_normal(seed, i));
    return n;
  }
  operator fg::matrix<S>() { return {values.data(), rows, cols}; }
  operator fg::matrix<S const>() const { return {values.data(), rows, cols}; }
  fg::matrix<S> first(std::int64_t count) { return {values.data(), count, cols}; }
  fg::matrix<S const> first(std::int64_t count) const { return {values.data(), count, cols}; }
  bool untouched() const {
    for (S x : values)
      if (!std::isnan(x)) return false;
    return true;
  }
  bool operator==(numbers const& other) const {
    return values.size() == other.values.size() &&
           std::memcmp(values.data(), other.values.data(), values.size() * sizeof(S)) == 0;
  }
};

template <class S>
std::vector<S> copy(std::span<S> all) {
  return {all.begin(), all.end()};
}

}  // namespace small
