// RMS norm's kernels. All are bound by memory: a thread moves 16 bytes at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "norm.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
struct norm_rows {
  T const *x, *a, *gain;  // a: null, or sum = x + a
  T *sum, *y;             // sum: null only without a
  std::int64_t x_stride, a_stride, sum_stride, y_stride;
  int cols;
  float epsilon;
  float* inverse_rms;
};

/// A block a row. What a second look at the row needs is still in the cache.
template <class T>
__global__ void norm_forward_kernel(norm_rows<T> const p) {
  __shared__ float memory[32];
  std::int64_t const row = blockIdx.x;
  T const* x = p.x + row * p.x_stride;
  float square = 0;
  for (int c = threadIdx.x * vector::width; c < p.cols; c += blockDim.x * vector::width) {
    float v[vector::width];
    vector::load(x + c, v);
    if (p.a) {
      float a[vector::width];
      vector::load(p.a + row * p.a_stride + c, a);
#pragma unroll
      for (int i = 0; i < vector::width; ++i) v[i] += a[i];
      auto const sum = vector::pack<T>(v);
      vector::store(p.sum + row * p.sum_stride + c, sum);
      vector::unpack(sum, v);  // the norm is of what is stored
    } else if (p.sum) {
      vector::save(p.sum + row * p.sum_stride + c, v);
    }
#pragma unroll
    for (int i = 0; i < vector::width; ++i) square += v[i] * v[i];
  }
  float const r =
      rsqrtf(vector::block_sum(square, memory) / static_cast<float>(p.cols) + p.epsilon);
  if (threadIdx.x == 0) p.inverse_rms[row] = r;
  if (p.a) x = p.sum + row * p.sum_stride;
  for (int c = threadIdx.x * vector::width; c < p.cols; c += blockDim.x * vector::width) {
    float v[vector::width], gain[vector::width];
    vector::load(x + c, v);
    vector::load(p.gain + c, gain);
#pragma unroll
    for (int i = 0; i < vector::width; ++i) v[i] *= r * gain[i];
    vector::save(p.y + row * p.y_stride + c, v);
  }
}

template <class T>
struct norm_backward_rows {
  T const *x, *gain, *dy, *plus;
  T* dx;
  float const* inverse_rms;
  float* partial;  // (gridDim.x, cols)
  std::int64_t x_stride, dy_stride, plus_stride, dx_stride;
  int rows, cols;
};

/// With n = x r and g = dy gain: dx = r (g - n mean(g n)), dgain = sum over rows of dy n. A block
/// takes every gridDim.x-th row; a thread's N vectors of columns stay its own, and so its part of
/// dgain stays in registers. The next row is fetched while this one is summed, where N = 1 of bf16
/// leaves the registers for it.
template <class T, int N>
__global__ void __launch_bounds__(N == 1 ? 1024 : 512)
    norm_backward_kernel(norm_backward_rows<T> const p) {
  constexpr int width = vector::width;
  constexpr bool kept = N == 1 && std::is_same_v<T, bf16>;
  __shared__ float memory[32];
  int const step = blockDim.x * width;
  int const first = threadIdx.x * width;
  float sums[N][width] = {};
  vector::packed<T> next_x[N], next_dy[N];
  auto const fetch = [&](std::int64_t row) {
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (int const c = first + j * step; c < p.cols) {
        next_x[j] = vector::fetch(p.x + row * p.x_stride + c);
        next_dy[j] = vector::fetch(p.dy + row * p.dy_stride + c);
      }
  };
  if (kept) fetch(blockIdx.x);
  for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    float const r = p.inverse_rms[row];
    float dot = 0;
    vector::packed<T> now_x[N], now_dy[N];
    if (kept)
#pragma unroll
      for (int j = 0; j < N; ++j) now_x[j] = next_x[j], now_dy[j] = next_dy[j];
    auto const take = [&](std::int64_t row, int j, int c, float(&x)[width], float(&dy)[width]) {
      if (!kept) {  // from the cache, the second time
        vector::load(p.x + row * p.x_stride + c, x);
        vector::load(p.dy + row * p.dy_stride + c, dy);
        return;
      }
      vector::unpack(now_x[j], x);
      vector::unpack(now_dy[j], dy);
    };
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (int const c = first + j * step; c < p.cols) {
        float x[width], dy[width], gain[width];
        take(row, j, c, x, dy);
        vector::load(p.gain + c, gain);
#pragma unroll
        for (int i = 0; i < width; ++i) {
          sums[j][i] += dy[i] * (x[i] * r);
          dot += dy[i] * gain[i] * x[i];
        }
      }
    if (kept && row + gridDim.x < p.rows) fetch(row + gridDim.x);
    float const mean = vector::block_sum(dot, memory) * r / static_cast<float>(p.cols);
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (int const c = first + j * step; c < p.cols) {
        float x[width], dy[width], gain[width], plus[width] = {};
        take(row, j, c, x, dy);
        vector::load(p.gain + c, gain);
        if (p.plus) vector::load(p.plus + row * p.plus_stride + c, plus);
#pragma unroll
        for (int i = 0; i < width; ++i) x[i] = r * (dy[i] * gain[i] - x[i] * r * mean) + plus[i];
        vector::save(p.dx + row * p.dx_stride + c, x);
      }
  }
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (int const c = first + j * step; c < p.cols)
      vector::save(p.partial + static_cast<std::int64_t>(blockIdx.x) * p.cols + c, sums[j]);
}

/// out (cols) (+)= the sum over parts of partial (parts, cols): 32 columns a block, and 32 threads
/// for each.
template <class T>
__global__ void __launch_bounds__(1024)
    column_sums_kernel(float const* partial, int parts, int cols, bool add, T* out) {
  __shared__ float memory[32][33];
  int const column = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (column < cols)
#pragma unroll 4
    for (int part = threadIdx.y; part < parts; part += 32)
      sum += partial[static_cast<std::int64_t>(part) * cols + column];
  memory[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = vector::warp_sum(memory[threadIdx.x][threadIdx.y]);  // of column threadIdx.y
  int const mine = blockIdx.x * 32 + threadIdx.y;
  if (threadIdx.x > 0 || mine >= cols) return;
  vector::put(out + mine, add ? vector::to_float(out[mine]) + sum : sum);
}

template <class T>
void norm<T>::forward(matrix<T const> x, T const* gain, float epsilon, matrix<T> y,
                      float* inverse_rms, CUstream_st* stream) {
  add_forward(x, {}, gain, epsilon, {}, y, inverse_rms, stream);
}
template <class T>
void norm<T>::add_forward(matrix<T const> x, matrix<T const> a, T const* gain, float epsilon,
                          matrix<T> sum, matrix<T> y, float* inverse_rms, CUstream_st* stream) {
  if (x.rows == 0) return;
  norm_rows<T> const p{x.data,   a.data,     gain,       sum.data, y.data,
                       x.stride, a.stride,   sum.stride, y.stride, static_cast<int>(x.cols),
                       epsilon,  inverse_rms};
  norm_forward_kernel<T><<<static_cast<unsigned>(x.rows),
                           vector::threads_for(x.cols / vector::width, 512), 0, stream>>>(p);
  check_launch("norm_forward_kernel");
}

template <class T>
void norm<T>::backward(matrix<T const> x, T const* gain, float const* inverse_rms,
                       matrix<T const> dy, matrix<T const> plus, float* partial, T* dgain,
                       gradients mode, matrix<T> dx, CUstream_st* stream) {
  int const rows = static_cast<int>(x.rows), cols = static_cast<int>(x.cols);
  int const vectors = cols / vector::width, parts = static_cast<int>(norm_parts(rows, cols));
  if (vectors > 2048)
    throw invalid_argument("the norm's gradient takes rows of up to 16384 numbers, not %d", cols);
  if (rows > 0) {
    norm_backward_rows<T> const p{x.data,      gain,    dy.data,  plus.data, dx.data,
                                  inverse_rms, partial, x.stride, dy.stride, plus.stride,
                                  dx.stride,   rows,    cols};
    if (vectors <= 1024)
      norm_backward_kernel<T, 1><<<parts, vector::threads_for(vectors, 1024), 0, stream>>>(p);
    else
      norm_backward_kernel<T, 4><<<parts, 512, 0, stream>>>(p);
    check_launch("norm_backward_kernel");
  }
  column_sums_kernel<T><<<vector::blocks_for(cols, 32), dim3(32, 32), 0, stream>>>(
      partial, parts, cols, mode == gradients::accumulate, dgain);
  check_launch("column_sums_kernel");
}

template <class T>
using norm_code = code<&norm<T>::forward, &norm<T>::add_forward, &norm<T>::backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
