// Biases of products on the device: a product is added to rows of its bias.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/bounds.hpp"
#include "../base/matrix.hpp"
#include "../plan/extent.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Rows of sums that are added up at the end: fixed by the shape alone.
constexpr std::int64_t bias_parts(std::int64_t tokens) {
  return at_most<std::int64_t>(tokens, 256);
}

/// Rows begin on 16-byte borders and N is a multiple of 8.
template <class T>
struct bias {
  /// y (T, N) = the bias (N) in every row.
  static void begin(T const* bias, matrix<T> y, CUstream_st* stream);
  /// dbias (N) (+)= the sum of dy (T, N) over rows. partial: (bias_parts(T), N).
  static void backward(matrix<T const> dy, float* partial, T* dbias, gradients mode,
                       CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
