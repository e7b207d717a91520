// What the tests of kernels share: rows of numbers, and comparing them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <finegrain/base/random.hpp>
#include <finegrain/plan/plan.hpp>
#include <random>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "memory.hpp"

namespace on_device {

using fg::bf16;
template <class T>
using view = fg::matrix<T>;
inline CUstream_st* const stream = nullptr;

template <class T = bf16>
std::vector<T> random_rows(std::int64_t size, unsigned seed, float spread = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<T> numbers(static_cast<std::size_t>(size));
  for (T& x : numbers) x = T(normal(random));
  return numbers;
}
/// Whole numbers from -3 to 3: sums of their products are exact in any order.
template <class T = bf16>
std::vector<T> whole_rows(std::int64_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> numbers(static_cast<std::size_t>(size));
  for (T& x : numbers) x = T(static_cast<float>(static_cast<int>(random() % 7) - 3));
  return numbers;
}

inline std::vector<bf16> random_bf16(std::int64_t count, std::uint64_t seed, double deviation = 1) {
  std::vector<bf16> made;
  for (std::int64_t i = 0; i < count; ++i)
    made.emplace_back(float(deviation * fg::random_normal(seed, std::uint64_t(i))));
  return made;
}
inline std::vector<float> random_floats(std::int64_t count, std::uint64_t seed,
                                        double deviation = 1) {
  std::vector<float> made;
  for (std::int64_t i = 0; i < count; ++i)
    made.push_back(float(deviation * fg::random_normal(seed, std::uint64_t(i))));
  return made;
}

inline double number(bf16 x) { return static_cast<double>(static_cast<float>(x)); }
inline double number(fg::fp16 x) { return static_cast<double>(static_cast<float>(x)); }
inline double number(float x) { return static_cast<double>(x); }
inline double number(double x) { return x; }
template <class T>
std::vector<double> doubles(std::vector<T> const& numbers) {
  std::vector<double> result;
  for (T x : numbers) result.push_back(number(x));
  return result;
}

template <class T>
view<T> rows(std::vector<T>& numbers, std::int64_t cols) {
  return {numbers.data(), cols ? static_cast<std::int64_t>(numbers.size()) / cols : 0, cols};
}
template <class T>
view<T> rows(device_buffer<T> const& numbers, std::int64_t cols) {
  return {numbers.data(), cols ? numbers.size() / cols : 0, cols};
}

/// Empty if all numbers are near: off by `relative` of themselves plus `absolute`; NaN where they
/// should be. Else which not.
template <class T, class U>
std::string far_off(std::vector<T> const& is, std::vector<U> const& should, double relative,
                    double absolute) {
  if (is.size() != should.size()) return "another size";
  std::string text;
  int wrong = 0;
  for (std::size_t i = 0; i < is.size(); ++i) {
    double const a = number(is[i]), b = number(should[i]);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (std::abs(a - b) <= relative * std::abs(b) + absolute) continue;
    if (++wrong <= 4)
      text += "[" + std::to_string(i) + "] is " + std::to_string(a) + ", not " + std::to_string(b) +
              "; ";
  }
  return wrong ? text + std::to_string(wrong) + " of " + std::to_string(is.size()) : "";
}

/// What rounding to T may be off, and a little; of f32 what sums and functions are.
template <class T>
inline constexpr double step_of = 1.0 / 256;
template <>
inline constexpr double step_of<fg::fp16> = 1.0 / 1024;
template <>
inline constexpr double step_of<float> = 4e-6;
inline constexpr double bf16_step = step_of<bf16>;

}  // namespace on_device
