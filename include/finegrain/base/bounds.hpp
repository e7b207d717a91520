// at_most, at_least, ceil_div: bounds, and division rounded up. <algorithm> has the first two, and would
// be an eighth of what nvcc reads ahead of a kernel.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The smaller, and the larger, of a number and a bound of its type.
template <class T>
constexpr T at_most(T x, std::type_identity_t<T> bound) {
  return bound < x ? bound : x;
}
template <class T>
constexpr T at_least(T x, std::type_identity_t<T> bound) {
  return x < bound ? bound : x;
}
/// How many pieces of b, a last one cut short, a is; a >= 0, b > 0.
template <class A, class B>
FINEGRAIN_HD constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
