// Kernels over single numbers and rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "elementwise.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// to[i] = f(i-th number of from, of to), N numbers a thread, for rows of `cols`.
template <int N, class From, class To, class F>
__global__ void each_kernel(From const* from, std::int64_t from_stride, To* to,
                            std::int64_t to_stride, std::int64_t rows, std::int64_t cols, F f) {
  std::int64_t const in_row = cols / N;
  std::int64_t const i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * in_row) return;
  std::int64_t const row = i / in_row, c = i % in_row * N;
  float x[N] = {}, y[N] = {};
  vector::load(from + row * from_stride + c, x);
  if constexpr (F::reads_to) vector::load(to + row * to_stride + c, y);
#pragma unroll
  for (int j = 0; j < N; ++j) y[j] = f(x[j], y[j]);
  vector::save(to + row * to_stride + c, y);
}

struct each_sum {
  static constexpr bool reads_to = true;
  __device__ float operator()(float x, float y) const { return x + y; }
};
struct each_scaled {
  static constexpr bool reads_to = false;
  float factor;
  __device__ float operator()(float x, float) const { return factor * x; }
};
struct each_copy {
  static constexpr bool reads_to = false;
  __device__ float operator()(float x, float) const { return x; }
};
template <class T>
struct each_followed {
  static constexpr bool reads_to = true;
  bool by_chance;
  __device__ float operator()(float x, float y) const {
    T nearest;
    vector::put(&nearest, y);
    bool made = vector::to_float(nearest) == x;
    if constexpr (std::is_same_v<T, bf16>)  // as rounded_by may have made it
      made |= by_chance && (static_cast<float>(rounded_by(y, 0)) == x ||
                            static_cast<float>(rounded_by(y, 0xffff)) == x);
    return made ? y : x;
  }
};
template <class From, class To, class F>
void each(matrix<From const> from, matrix<To> to, F f, CUstream_st* stream) {
  if (from.stride == from.cols && to.stride == to.cols)  // one long row
    from = {from.data, 1, from.size()}, to = {to.data, 1, to.size()};
  if (to.size() == 0) return;
  auto const launch = [&](auto kernel, std::int64_t numbers) {
    kernel<<<vector::blocks_for(to.size() / numbers, 256), 256, 0, stream>>>(
        from.data, from.stride, to.data, to.stride, to.rows, to.cols, f);
  };
  if (vector::aligned(from.data, from.cols, from.stride) &&
      vector::aligned(to.data, to.cols, to.stride))
    launch(each_kernel<vector::width, From, To, F>, vector::width);
  else
    launch(each_kernel<1, From, To, F>, 1);
  check_launch("each_kernel");
}

template <class T>
void elementwise<T>::add(matrix<T const> x, matrix<T> y, CUstream_st* stream) {
  each(x, y, each_sum{}, stream);
}
template <class T>
void elementwise<T>::scale(matrix<T const> x, float factor, matrix<T> y, CUstream_st* stream) {
  each(x, y, each_scaled{factor}, stream);
}
template <class T>
void elementwise<T>::narrow(float const* from, T* to, std::int64_t count, CUstream_st* stream) {
  each(matrix<float const>(from, 1, count), matrix<T>(to, 1, count), each_copy{}, stream);
}
template <class T>
void elementwise<T>::widen(T const* from, float* to, std::int64_t count, CUstream_st* stream) {
  each(matrix<T const>(from, 1, count), matrix<float>(to, 1, count), each_copy{}, stream);
}
template <class T>
void elementwise<T>::follow(T const* from, float* to, std::int64_t count, bool by_chance,
                            CUstream_st* stream) {
  each(matrix<T const>(from, 1, count), matrix<float>(to, 1, count), each_followed<T>{by_chance},
       stream);
}

/// What a blend reads and writes, a block a row.
template <class T>
struct blend_rows {
  matrix<T const> a, b, dy;
  matrix<T> y, da, db;
  float* mix;  // (T, 2)
  T* dmix;     // (T, 2)
};

template <class T>
__global__ void blend_kernel(blend_rows<T> const p) {
  std::int64_t const t = blockIdx.x;
  float const c = 1 / (1 + expf(p.mix[2 * t + 1] - p.mix[2 * t]));
  for (std::int64_t i = threadIdx.x * vector::width; i < p.y.cols;
       i += blockDim.x * vector::width) {
    float a[vector::width], b[vector::width];
    vector::load(p.a.data + t * p.a.stride + i, a);
    vector::load(p.b.data + t * p.b.stride + i, b);
#pragma unroll
    for (int j = 0; j < vector::width; ++j) a[j] = c * a[j] + (1 - c) * b[j];
    vector::save(p.y.data + t * p.y.stride + i, a);
  }
  __syncthreads();  // all have read the mix
  if (threadIdx.x == 0) p.mix[2 * t] = c, p.mix[2 * t + 1] = 1 - c;
}

template <class T>
__global__ void blend_backward_kernel(blend_rows<T> const p) {
  __shared__ float memory[32];
  std::int64_t const t = blockIdx.x;
  float const c = p.mix[2 * t], rest = p.mix[2 * t + 1];
  float difference = 0;
  for (std::int64_t i = threadIdx.x * vector::width; i < p.dy.cols;
       i += blockDim.x * vector::width) {
    float a[vector::width], b[vector::width], dy[vector::width];
    vector::load(p.a.data + t * p.a.stride + i, a);
    vector::load(p.b.data + t * p.b.stride + i, b);
    vector::load(p.dy.data + t * p.dy.stride + i, dy);
#pragma unroll
    for (int j = 0; j < vector::width; ++j) {
      difference += dy[j] * (a[j] - b[j]);
      a[j] = c * dy[j];
      b[j] = rest * dy[j];
    }
    vector::save(p.da.data + t * p.da.stride + i, a);
    vector::save(p.db.data + t * p.db.stride + i, b);
  }
  float const dmix = c * rest * vector::block_sum(difference, memory);
  if (threadIdx.x == 0) {
    vector::put(p.dmix + 2 * t, dmix);
    vector::put(p.dmix + 2 * t + 1, -dmix);
  }
}

template <class T>
void elementwise<T>::blend(float* mix, matrix<T const> a, matrix<T const> b, matrix<T> y,
                           CUstream_st* stream) {
  if (y.rows == 0) return;
  blend_kernel<T><<<static_cast<unsigned>(y.rows), vector::threads_for(y.cols / vector::width, 256),
                    0, stream>>>({a, b, {}, y, {}, {}, mix, nullptr});
  check_launch("blend_kernel");
}
template <class T>
void elementwise<T>::blend_backward(float const* mix, matrix<T const> a, matrix<T const> b,
                                    matrix<T const> dy, matrix<T> da, matrix<T> db, T* dmix,
                                    CUstream_st* stream) {
  if (dy.rows == 0) return;
  blend_backward_kernel<T>
      <<<static_cast<unsigned>(dy.rows), vector::threads_for(dy.cols / vector::width, 256), 0,
         stream>>>({a, b, dy, {}, da, db, const_cast<float*>(mix), dmix});
  check_launch("blend_backward_kernel");
}

template <class T>
__global__ void __launch_bounds__(256)
    finite_kernel(T const* from, std::int64_t count, std::int32_t* others) {
  std::int64_t const stride = std::int64_t{gridDim.x} * blockDim.x;
  bool found = false;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride)
    found |= !isfinite(vector::to_float(from[i]));
  if (found) *others = 1;
}
template <class T>
void finite_numbers<T>::look(T const* from, std::int64_t count, std::int32_t* others,
                             CUstream_st* stream) {
  runtime::fill(others, 0, sizeof *others, stream);
  if (count == 0) return;
  auto const blocks = static_cast<unsigned>(at_most<std::int64_t>((count + 255) / 256, 2048));
  finite_kernel<<<blocks, 256, 0, stream>>>(from, count, others);
  check_launch("finite_kernel");
}

template <class T>
__global__ void __launch_bounds__(256)
    copy_heads_kernel(int count, int columns, matrix<T const> from, int from_step, matrix<T> to,
                      int to_step) {
  int const vectors = columns / vector::width;
  std::int64_t const item = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::int64_t const row = item / (vectors * count);
  if (row >= to.rows) return;
  int const in_row = static_cast<int>(item % (vectors * count));
  int const head = in_row / vectors, c = in_row % vectors * vector::width;
  vector::store(to.data + row * to.stride + head * to_step + c,
                vector::fetch(from.data + row * from.stride + head * from_step + c));
}
template <class T>
__global__ void __launch_bounds__(256)
    sum_heads_kernel(int count, matrix<T const> from, int from_step, matrix<T> to) {
  int const vectors = static_cast<int>(to.cols) / vector::width;
  std::int64_t const item = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::int64_t const row = item / vectors;
  if (row >= to.rows) return;
  int const c = static_cast<int>(item % vectors) * vector::width;
  float sum[vector::width] = {};
#pragma unroll 4
  for (int head = 0; head < count; ++head) {
    float x[vector::width];
    vector::load(from.data + row * from.stride + head * from_step + c, x);
#pragma unroll
    for (int i = 0; i < vector::width; ++i) sum[i] += x[i];
  }
  vector::save(to.data + row * to.stride + c, sum);
}
template <class T>
void heads_columns<T>::copy(int count, int columns, matrix<T const> from, int from_step,
                            matrix<T> to, int to_step, CUstream_st* stream) {
  if (to.rows == 0) return;
  auto const blocks = vector::blocks_for(to.rows * count * (columns / vector::width), 256);
  copy_heads_kernel<T><<<blocks, 256, 0, stream>>>(count, columns, from, from_step, to, to_step);
  check_launch("copy_heads_kernel");
}
template <class T>
void heads_columns<T>::sum(int count, matrix<T const> from, int from_step, matrix<T> to,
                           CUstream_st* stream) {
  if (to.rows == 0) return;
  auto const blocks = vector::blocks_for(to.size() / vector::width, 256);
  sum_heads_kernel<T><<<blocks, 256, 0, stream>>>(count, from, from_step, to);
  check_launch("sum_heads_kernel");
}

template <class T>
using elementwise_code =
    code<&elementwise<T>::add, &elementwise<T>::scale, &elementwise<T>::narrow,
         &elementwise<T>::widen, &elementwise<T>::follow, &finite_numbers<T>::look>;
template <class T>
using blend_code = code<&elementwise<T>::blend, &elementwise<T>::blend_backward>;
template <class T>
using heads_columns_code = code<&heads_columns<T>::copy, &heads_columns<T>::sum>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
