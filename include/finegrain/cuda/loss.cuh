// The losses' kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cfloat>

#include "loss.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class Tag>
__global__ void __launch_bounds__(1024)
    count_targets_kernel(std::int32_t const* targets, std::int64_t tokens, std::int64_t* terms) {
  __shared__ long long memory[32];
  long long count = 0;
#pragma unroll 8
  for (std::int64_t t = threadIdx.x; t < tokens; t += blockDim.x) count += targets[t] >= 0;
  count = vector::block_sum(count, memory);
  if (threadIdx.x == 0) *terms = count;
}

/// *sum += all parts, by one block.
template <class S>
__global__ void __launch_bounds__(1024)
    add_parts_kernel(S const* parts, std::int64_t count, double* sum) {
  __shared__ double memory[32];
  double mine = 0;
#pragma unroll 8
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x)
    mine += static_cast<double>(parts[i]);
  mine = vector::block_sum(mine, memory);
  if (threadIdx.x == 0) *sum += mine;
}
template <class S>
void add_parts(S const* parts, std::int64_t count, double* sum, CUstream_st* stream) {
  add_parts_kernel<<<1, vector::threads_for(count, 1024), 0, stream>>>(parts, count, sum);
  check_launch("add_parts_kernel");
}

template <class T>
struct cross_entropy_rows {
  matrix<T const> logits;
  matrix<T> dlogits;
  std::int32_t const* targets;
  std::int64_t const* terms;
  double scale;
  float* of_token;
  int kept;  // the first columns of a row, which stay in shared memory
};

/// A block a token; a thread takes N columns at a time, side by side where rows are vectors, else
/// one from each of N runs of the block's. The logits are read once: maximum and sum of
/// exponentials together, and what fits is kept for the gradient.
template <bool Vectors, class T>
__global__ void __launch_bounds__(1024) cross_entropy_kernel(cross_entropy_rows<T> const p) {
  constexpr int N = vector::width, ahead = Vectors ? 4 : 1;
  constexpr float log2e = 1.44269504f;
  extern __shared__ uint4 row_memory[];
  __shared__ float memory[32];
  T* const kept = reinterpret_cast<T*>(row_memory);
  int const t = blockIdx.x;
  int const V = static_cast<int>(p.logits.cols);
  T const* const row = p.logits.data + t * p.logits.stride;
  T* const to = p.dlogits.data ? p.dlogits.data + t * p.dlogits.stride : nullptr;
  int const first = Vectors ? threadIdx.x * N : threadIdx.x, step = blockDim.x * N;
  int const apart = Vectors ? 1 : blockDim.x;
  auto const save = [&](int c, float const(&x)[N]) {
    if constexpr (Vectors) {
      vector::save(to + c, x);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (c + i * apart < V) vector::put(to + c + i * apart, x[i]);
    }
  };
  auto const load = [&](int c, float(&x)[N]) {
    if constexpr (Vectors) {
      vector::load(c < p.kept ? kept + c : row + c, x);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i)
        x[i] = c + i * apart < V ? vector::to_float(row[c + i * apart]) : -INFINITY;
    }
  };
  int const target = p.targets[t];
  if (target < 0) {
    float const zeros[N] = {};
    if (to)
      for (int c = first; c < V; c += step) save(c, zeros);
    if (threadIdx.x == 0) p.of_token[t] = 0;
    return;
  }

  float most = -FLT_MAX, sum = 0;  // finite: a difference to it is never NaN
  auto const add = [&](float const(&x)[N]) {
    float top = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) top = fmaxf(top, x[i]);
    if (top > most) {
      sum *= exp2f((most - top) * log2e);
      most = top;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += exp2f((x[i] - most) * log2e);
  };
  for (int begin = first; begin < V; begin += ahead * step) {
    float x[N];
    if constexpr (Vectors) {
      vector::packed<T> some[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j)
        if (begin + j * step < V) some[j] = vector::fetch(row + begin + j * step);
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        int const c = begin + j * step;
        if (c >= V) break;
        if (c < p.kept) vector::store(kept + c, some[j]);
        vector::unpack(some[j], x);
        add(x);
      }
    } else {
      load(begin, x);
      add(x);
    }
  }
  float const of_target = target < V ? vector::to_float(row[target]) : __int_as_float(0x7fc00000);
  float const top = vector::block_most(most, memory);
  sum = vector::block_sum(sum * exp2f((most - top) * log2e), memory);
  if (threadIdx.x == 0) p.of_token[t] = logf(sum) + (top - of_target);
  if (!to) return;

  double const terms = p.terms ? static_cast<double>(max(*p.terms, std::int64_t{1})) : 1.0;
  float const scale = static_cast<float>(p.scale / terms), factor = scale / sum;
#pragma unroll(Vectors ? 2 : 1)
  for (int c = first; c < V; c += step) {
    float x[N];
    load(c, x);
    int const hit = target - c;
#pragma unroll
    for (int i = 0; i < N; ++i)
      x[i] = exp2f((x[i] - top) * log2e) * factor - (i * apart == hit ? scale : 0.0f);
    save(c, x);
  }
}

/// Shared memory that a block may have beside 1 KB of its own.
inline std::int64_t shared_memory_limit() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  return bytes - 1024;
}

template <class T>
void cross_entropy_launch(cross_entropy_rows<T> p, double* sum, CUstream_st* stream) {
  std::int64_t const tokens = p.logits.rows, V = p.logits.cols;
  if (tokens == 0) return;
  auto const launch = [&](auto kernel) {
    int const shared = p.kept * static_cast<int>(sizeof(T));
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "shared memory of cross_entropy_kernel");
    int const most = shared > 100 << 10 ? 1024 : shared > 32 << 10 ? 512 : 256;
    kernel<<<static_cast<unsigned>(tokens), vector::threads_for(ceil_div(V, vector::width), most),
             static_cast<std::size_t>(shared), stream>>>(p);
    check_launch("cross_entropy_kernel");
  };
  if (vector::aligned(p.logits.data, V, p.logits.stride) &&
      (!p.dlogits.data || vector::aligned(p.dlogits.data, V, p.dlogits.stride))) {
    std::int64_t const room = shared_memory_limit() / static_cast<std::int64_t>(sizeof(T));
    if (p.dlogits.data) p.kept = static_cast<int>(at_most(V, room / vector::width * vector::width));
    launch(cross_entropy_kernel<true, T>);
  } else {
    launch(cross_entropy_kernel<false, T>);
  }
  add_parts(p.of_token, tokens, sum, stream);
}

template <class T>
void loss<T>::count_targets(std::int32_t const* targets, std::int64_t tokens, std::int64_t* terms,
                            CUstream_st* stream) {
  count_targets_kernel<void>
      <<<1, vector::threads_for(tokens, 1024), 0, stream>>>(targets, tokens, terms);
  check_launch("count_targets_kernel");
}
template <class T>
void loss<T>::cross_entropy(matrix<T const> logits, std::int32_t const* targets, double scale,
                            std::int64_t const* terms, matrix<T> dlogits, float* of_token,
                            double* sum, CUstream_st* stream) {
  cross_entropy_launch<T>({logits, dlogits, targets, terms, scale, of_token, 0}, sum, stream);
}

/// Rows are shared out over the blocks, N numbers at a time; a block's sum is one of the parts.
template <int N, class T>
__global__ void __launch_bounds__(256)
    squared_error_kernel(matrix<T const> y, matrix<T const> target, float twice_scale, matrix<T> dy,
                         double* partial) {
  __shared__ double memory[32];
  double sum = 0;
  std::int64_t const step = static_cast<std::int64_t>(gridDim.x) * blockDim.x * N;
  for (std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
       i < y.rows * y.cols; i += step) {
    std::int64_t const t = i / y.cols, c = i % y.cols;
    float off[N], right[N];
    vector::load(y.data + t * y.stride + c, off);
    vector::load(target.data + t * target.stride + c, right);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      off[j] -= right[j];
      sum += static_cast<double>(off[j]) * static_cast<double>(off[j]);
      off[j] *= twice_scale;
    }
    if (dy.data) vector::save(dy.data + t * dy.stride + c, off);
  }
  sum = vector::block_sum(sum, memory);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
void loss<T>::squared_error(matrix<T const> y, matrix<T const> target, double scale, matrix<T> dy,
                            double* partial, double* sum, CUstream_st* stream) {
  if (y.size() == 0) return;
  bool const vectors = vector::aligned(y.data, y.cols, y.stride) &&
                       vector::aligned(target.data, y.cols, target.stride) &&
                       (!dy.data || vector::aligned(dy.data, y.cols, dy.stride));
  std::int64_t const of_block = 256 * (vectors ? vector::width : 1);
  auto const parts = at_most<std::int64_t>(ceil_div(y.size(), of_block), squared_error_parts);
  auto const kernel = vectors ? squared_error_kernel<vector::width, T> : squared_error_kernel<1, T>;
  kernel<<<static_cast<unsigned>(parts), 256, 0, stream>>>(y, target, static_cast<float>(2 * scale),
                                                           dy, partial);
  check_launch("squared_error_kernel");
  add_parts(partial, parts, sum, stream);
}

template <class T>
using loss_code = code<&loss<T>::count_targets, &loss<T>::cross_entropy, &loss<T>::squared_error>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
