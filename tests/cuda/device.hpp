// Numbers on the device, for tests of the cuda executor's kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstring>
#include <finegrain/base/number.hpp>
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/buffer.hpp>
#include <limits>
#include <type_traits>
#include <vector>

namespace on_device {

namespace fg = finegrain;
using fg::bf16;
using fg::device_buffer;

/// `count` numbers of the device that nobody wrote: all bits set, a NaN of any type.
template <class T>
device_buffer<T> unwritten(std::int64_t count) {
  device_buffer<T> made(std::max<std::int64_t>(count, 1));
  fg::device::runtime::fill(made.data(), 0xff, made.bytes(), nullptr);
  return made;
}
template <class T>
device_buffer<T> upload(std::vector<T> const& from) {
  device_buffer<T> made(std::max<std::int64_t>(std::int64_t(from.size()), 1));
  fg::device::runtime::copy(made.data(), from.data(), std::int64_t(from.size() * sizeof(T)),
                            nullptr);
  return made;
}
template <class T>
std::vector<T> download(T const* from, std::int64_t count) {
  std::vector<T> made(static_cast<std::size_t>(count));
  fg::device::runtime::copy(made.data(), from, count * std::int64_t(sizeof(T)), nullptr);
  return made;
}
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
template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() &&
         (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
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
