// RMS norm on the device: y = x / sqrt(mean(x^2) + epsilon) * gain, row by row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/bounds.hpp"
#include "../base/matrix.hpp"
#include "../plan/extent.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Blocks of rows whose sums of dgain are added up at the end: fixed by the shape alone. Short rows
/// need more of them to keep a device busy.
constexpr std::int64_t norm_parts(std::int64_t tokens, std::int64_t D) {
  return at_most(tokens, at_least<std::int64_t>((1 << 20) / at_least<std::int64_t>(D, 128), 512));
}

/// Rows begin on 16-byte borders and D is a multiple of 8.
template <class T>
struct norm {
  /// y (T, D) from x (T, D) and gain (D). Leaves 1 / sqrt(mean(x^2) + epsilon) of each row.
  static void forward(matrix<T const> x, T const* gain, float epsilon, matrix<T> y,
                      float* inverse_rms, CUstream_st* stream);
  /// sum = x + a, or x where a has no data, and the norm of that: the end of one residual and the
  /// beginning of the next. sum may be x or a, and may have no data where a has none.
  static void add_forward(matrix<T const> x, matrix<T const> a, T const* gain, float epsilon,
                          matrix<T> sum, matrix<T> y, float* inverse_rms, CUstream_st* stream);
  /// dx (T, D) and dgain (D) from dy (T, D). `plus` (T, D), if it has data, is added to dx: the
  /// gradient of a residual; it may be dx itself, and so may dy. partial: (norm_parts(T, D), D).
  static void backward(matrix<T const> x, T const* gain, float const* inverse_rms,
                       matrix<T const> dy, matrix<T const> plus, float* partial, T* dgain,
                       gradients mode, matrix<T> dx, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
