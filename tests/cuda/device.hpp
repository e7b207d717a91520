// Numbers that a router's and a layer's kernels are tried with, and comparing them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <finegrain/base/number.hpp>
#include <finegrain/base/random.hpp>
#include <vector>

#include "memory.hpp"

namespace on_device {

using fg::bf16;

template <class T>
std::vector<T> download(device_buffer<T> const& from, std::int64_t count) {
  return download(from.data(), count);
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
template <class T>
std::vector<double> widened(std::vector<T> const& from) {
  std::vector<double> made;
  for (T x : from) made.push_back(static_cast<double>(static_cast<float>(x)));
  return made;
}

/// The first place where |a - b| > absolute + relative |b|, or where one is NaN; -1 if none.
template <class A, class B>
std::int64_t differs(std::vector<A> const& a, std::vector<B> const& b, double relative,
                     double absolute) {
  if (a.size() != b.size()) return 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    auto const x = static_cast<double>(static_cast<float>(a[i])), y = static_cast<double>(b[i]);
    if (std::isnan(x) && std::isnan(y)) continue;
    if (x == y) continue;
    if (!(std::abs(x - y) <= absolute + relative * std::abs(y))) return std::int64_t(i);
  }
  return -1;
}

/// How many 16 bytes of some pairs of arrays are not the same, counted on the device (device.cu).
class differences {
 public:
  differences();
  void add(device_buffer<bf16> const& a, device_buffer<bf16> const& b);
  std::int64_t count() const;

 private:
  device_buffer<unsigned long long> count_;
};

}  // namespace on_device
