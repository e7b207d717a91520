// Kernels of biases. Both are bound by memory: a thread moves 16 bytes at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bias.hpp"
#include "norm.cuh"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
__global__ void __launch_bounds__(256) begin_with_bias_kernel(T const* bias, matrix<T> y) {
  int const vectors = static_cast<int>(y.cols) / vector::width;
  std::int64_t const item = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::int64_t const row = item / vectors;
  if (row >= y.rows) return;
  int const c = static_cast<int>(item % vectors) * vector::width;
  vector::store(y.data + row * y.stride + c, vector::fetch(bias + c));
}

/// Sums of every gridDim.y-th row of dy, to row blockIdx.y of `partial`: a warp has 256 columns.
template <class T>
__global__ void __launch_bounds__(32) bias_sums_kernel(matrix<T const> dy, float* partial) {
  int const c = (blockIdx.x * 32 + threadIdx.x) * vector::width;
  if (c >= dy.cols) return;
  float sums[vector::width] = {};
#pragma unroll 4
  for (std::int64_t row = blockIdx.y; row < dy.rows; row += gridDim.y) {
    float x[vector::width];
    vector::load(dy.data + row * dy.stride + c, x);
#pragma unroll
    for (int i = 0; i < vector::width; ++i) sums[i] += x[i];
  }
  vector::save(partial + blockIdx.y * dy.cols + c, sums);
}

template <class T>
void bias<T>::begin(T const* bias, matrix<T> y, CUstream_st* stream) {
  if (y.rows == 0) return;
  begin_with_bias_kernel<T>
      <<<vector::blocks_for(y.size() / vector::width, 256), 256, 0, stream>>>(bias, y);
  check_launch("begin_with_bias_kernel");
}
template <class T>
void bias<T>::backward(matrix<T const> dy, float* partial, T* dbias, gradients mode,
                       CUstream_st* stream) {
  int const parts = static_cast<int>(bias_parts(dy.rows)), cols = static_cast<int>(dy.cols);
  if (parts > 0) {
    dim3 const grid(vector::blocks_for(cols, 32 * vector::width), static_cast<unsigned>(parts));
    bias_sums_kernel<T><<<grid, 32, 0, stream>>>(dy, partial);
    check_launch("bias_sums_kernel");
  }
  column_sums_kernel<T><<<vector::blocks_for(cols, 32), dim3(32, 32), 0, stream>>>(
      partial, parts, cols, mode == gradients::accumulate, dbias);
  check_launch("column_sums_kernel");
}

template <class T>
using bias_code = code<&bias<T>::begin, &bias<T>::backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
