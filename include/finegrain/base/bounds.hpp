// at_most, at_least: a number within bounds. <algorithm> has the same, and would be an eighth of what
// nvcc reads ahead of a kernel.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

template <class T>
constexpr T at_most(T x, std::type_identity_t<T> bound) {
  return bound < x ? bound : x;
}
template <class T>
constexpr T at_least(T x, std::type_identity_t<T> bound) {
  return x < bound ? bound : x;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
