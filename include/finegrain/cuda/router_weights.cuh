// The shared experts' gate, and the gradients of a router's weights and of this one's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "route.hpp"
#include "router_singly.cuh"
#include "router_tile.cuh"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
__global__ __launch_bounds__(256) void shared_weight_kernel(T const* gate, T const* x,
                                                            float* weight, int tokens, int D,
                                                            float scale) {
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  float sum = gate ? 0 : INFINITY;  // without a gate the scale alone
  for (int d = threadIdx.x % 32 * 2; gate && d < D; d += 64) {
    float2 const a = load_two(x + t * D + d), b = load_two(gate + d);
    sum += a.x * b.x + a.y * b.y;
  }
  sum = vector::warp_sum(sum);
  float const small = expf(-fabsf(sum)), sigmoid = (sum < 0 ? small : 1.0f) / (1 + small);
  if (threadIdx.x % 32 == 0) weight[t] = scale * sigmoid;
}

template <class T>
void route<T>::shared_weight(routing_rules const& c, T const* gate, T const* x, float* weight,
                             std::int64_t tokens, CUstream_st* stream) {
  if (tokens == 0) return;
  shared_weight_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, stream>>>(
      gate, x, weight, static_cast<int>(tokens), c.hidden, c.shared_scale);
  check_launch("route: shared weight");
}

/// dgate = the sum of a row's parts, times weight (1 - sigmoid).
template <class T>
__global__ void shared_backward_kernel(weight_dots dots, float const* weight, float* dgate,
                                       int tokens, float scale) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  float sum = 0;
  for (int p = 0; p < dots.parts; ++p) sum += dots.dot[t * dots.parts + p];
  dgate[t] = sum * weight[t] * (1 - weight[t] / scale);
}

template <class T>
void route<T>::shared_backward(routing_rules const& c, weight_dots dots, float const* weight,
                               float* dgate, std::int64_t tokens, CUstream_st* stream) {
  if (tokens == 0) return;
  shared_backward_kernel<T><<<unsigned((tokens + 127) / 128), 128, 0, stream>>>(
      dots, weight, dgate, static_cast<int>(tokens), c.shared_scale);
  check_launch("route: shared backward");
}

/// sums (splits, columns, D): one run of tokens' dlogits^T x for 64 columns and 128 of D. Column R is
/// the shared gate's. dlogits are taken as two numbers of 16 bits each. 8 warps of 32 x 32.
template <class T>
__global__ __launch_bounds__(256) void router_weights_kernel(T const* x, float const* dlogits,
                                                             float const* dgate, float* sums,
                                                             int tokens, int R, int columns, int D,
                                                             int run) {
  constexpr int rows = 32, wide = 128 + 8, narrow = 64 + 8;  // 16 bytes over: no bank conflicts
  __shared__ alignas(16) std::uint16_t xs[rows][wide];
  __shared__ alignas(16) std::uint16_t high[rows][narrow], low[rows][narrow];
  int const thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  int const d0 = blockIdx.x * 128, e0 = blockIdx.y * 64;
  int const we = warp / 4 * 32, wd = warp % 4 * 32;
  std::int64_t const begin = std::int64_t{blockIdx.z} * run;
  std::int64_t const end = min(std::int64_t{tokens}, begin + run);
  float sum[2][4][4] = {};

  uint4 read_x[2];
  float read_d[8];
  auto const read = [&](std::int64_t t0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // 32 rows of 16 pieces
      std::int64_t const t = t0 + i * 16 + thread / 16;
      int const d = d0 + thread % 16 * 8;
      read_x[i] = t < end && d < D ? *reinterpret_cast<uint4 const*>(x + t * D + d) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // 32 rows of 64, as pairs of columns
      std::int64_t const t = t0 + i / 2 * 8 + thread / 32;
      int const e = e0 + lane * 2 + i % 2;
      bool const there = t < end && e < columns;
      read_d[i] = !there ? 0.0f : e < R ? dlogits[t * R + e] : dgate[t];
    }
  };
  read(begin);
  for (std::int64_t t0 = begin; t0 < end; t0 += rows) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<uint4*>(&xs[i * 16 + thread / 16][thread % 16 * 8]) = read_x[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      split_pair<T> const two(read_d[2 * i], read_d[2 * i + 1]);
      int const row = i * 8 + thread / 32;
      *reinterpret_cast<unsigned*>(&high[row][lane * 2]) = two.high;
      *reinterpret_cast<unsigned*>(&low[row][lane * 2]) = two.low;
    }
    __syncthreads();
    if (t0 + rows < end) read(t0 + rows);
#pragma unroll
    for (int k = 0; k < rows; k += 16) {
      unsigned b[2][4];  // of columns 16 j: k 0-7, k 8-15, then the next 8 columns'
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load_matrices<true>(b[j], shared_address(&xs[k + lane % 16][wd + j * 16 + lane / 16 * 8]));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        // a's matrices: (e 0-7, k 0-7), (e 8-15, k 0-7), (e 0-7, k 8-15), (e 8-15, k 8-15)
        int const row = k + lane / 16 * 8 + lane % 8, e = we + m * 16 + lane / 8 % 2 * 8;
        unsigned a[4], rest[4];
        load_matrices<true>(a, shared_address(&high[row][e]));
        load_matrices<true>(rest, shared_address(&low[row][e]));
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          unsigned const b0 = b[n / 2][n % 2 * 2], b1 = b[n / 2][n % 2 * 2 + 1];
          multiply_add<T>(sum[m][n], a, b0, b1);
          multiply_add<T>(sum[m][n], rest, b0, b1);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const e = e0 + we + m * 16 + half * 8 + lane / 4, d = d0 + wd + n * 8 + lane % 4 * 2;
        if (e < columns && d < D)
          *reinterpret_cast<float2*>(sums + (std::int64_t{blockIdx.z} * columns + e) * D + d) = {
              sum[m][n][half * 2], sum[m][n][half * 2 + 1]};
      }
}

template <class T>
constexpr auto kernel_of_router_weights() {
  if constexpr (in_pairs<T>)
    return router_weights_kernel<T>;
  else
    return single_router_weights_kernel<T>;
}

/// The runs' sums, in order, become gradients: those of `numbers` pairs, the router's and the gate's.
template <class T>
__global__ __launch_bounds__(256) void router_sums_kernel(float const* sums, int splits, T* drouter,
                                                          T* dgate, std::int64_t router_pairs,
                                                          std::int64_t pairs, bool accumulate) {
  std::int64_t const i = std::int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= pairs) return;
  float a = 0, b = 0;
#pragma unroll 4
  for (int s = 0; s < splits; ++s) {
    float2 const part = reinterpret_cast<float2 const*>(sums)[s * pairs + i];
    a += part.x, b += part.y;
  }
  T* const to = i < router_pairs ? drouter + 2 * i : dgate + 2 * (i - router_pairs);
  if (accumulate) {
    float2 const before = load_two(to);
    a += before.x, b += before.y;
  }
  store_two(to, a, b);
}

template <class T>
void route<T>::weights_backward(int D, int R, T const* x, float const* dlogits, float const* dgate,
                                T* drouter, T* dshared_gate, gradients mode, float* partials,
                                std::int64_t tokens, CUstream_st* stream) {
  int const columns = R + (dgate != nullptr);
  if (columns == 0) return;
  auto const runs = router_splits::of(tokens, columns, D);
  dim3 const grid(unsigned((D + 127) / 128), unsigned((columns + 63) / 64), unsigned(runs.splits));
  auto const kernel = kernel_of_router_weights<T>();
  kernel<<<grid, 256, 0, stream>>>(x, dlogits, dgate, partials, static_cast<int>(tokens), R,
                                   columns, D, runs.tokens);
  check_launch("route: weights backward");
  std::int64_t const pairs = std::int64_t{columns} * D / 2;
  router_sums_kernel<T><<<unsigned((pairs + 255) / 256), 256, 0, stream>>>(
      partials, runs.splits, drouter, dshared_gate, std::int64_t{R} * D / 2, pairs,
      mode == gradients::accumulate);
  check_launch("route: weights backward, sums");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
