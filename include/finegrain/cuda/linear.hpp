// The linear map on the device: y = x W^T, by cuBLAS.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/matrix.hpp"
#include "../plan/extent.hpp"
#include "blas.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Sums are f32. Shapes and strides are free; those that are multiples of 8 are fast. cuBLAS chooses
/// its kernel by shape, so a token's bits may depend on how many tokens there are.
template <class T>
struct linear {
  /// y (T, Out) (+)= x (T, In) times weight (Out, In) transposed.
  static void forward(blas const& library, matrix<T const> x, matrix<T const> weight,
                      gradients mode, matrix<T> y, CUstream_st* stream);
  /// The same with f32 numbers out: logits.
  static void forward_f32(blas const& library, matrix<T const> x, matrix<T const> weight,
                          matrix<float> y, CUstream_st* stream);
  /// dx (T, In) (+)= dy (T, Out) times weight (Out, In).
  static void backward_input(blas const& library, matrix<T const> dy, matrix<T const> weight,
                             gradients mode, matrix<T> dx, CUstream_st* stream);
  /// dweight (Out, In) (+)= dy (T, Out) transposed times x (T, In).
  static void backward_weight(blas const& library, matrix<T const> dy, matrix<T const> x,
                              gradients mode, matrix<T> dweight, CUstream_st* stream);

  /// Products of `count` heads: x, weight and y are those of the first, and the others' are so many
  /// numbers behind. y (T, Out) = x (T, In) times weight (Out, In) transposed.
  static void forward_each(blas const& library, int count, matrix<T const> x, std::int64_t x_step,
                           matrix<T const> weight, std::int64_t weight_step, matrix<T> y,
                           std::int64_t y_step, CUstream_st* stream);
  /// dx (T, In) = dy (T, Out) times weight (Out, In).
  static void backward_input_each(blas const& library, int count, matrix<T const> dy,
                                  std::int64_t dy_step, matrix<T const> weight,
                                  std::int64_t weight_step, matrix<T> dx, std::int64_t dx_step,
                                  CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
