// The router's products of backward for numbers of 32 bits, multiplied and added one by one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "combine.hpp"
#include "router_tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Sums (64, 128) = a^T b of a block of 256 threads, `deep` of K at a time. A thread has 8 rows and
/// 4 columns.
struct single_sums {
  static constexpr int rows = 64, columns = 128, deep = 16;
  struct operands {
    float a[deep][rows], b[deep][columns];
  };
  float at[8][4] = {};

  __device__ static int row() { return static_cast<int>(threadIdx.x) / 32 * 8; }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % 32 * 4; }
  /// read_a(k, row) and read_b(k, column, 8 numbers) for all k of K; all threads call it.
  template <class Read_a, class Read_b>
  __device__ void multiply(operands& m, int K, Read_a const& read_a, Read_b const& read_b) {
    int const k = static_cast<int>(threadIdx.x) / 16, part = static_cast<int>(threadIdx.x) % 16;
    for (int k0 = 0; k0 < K; k0 += deep) {
      __syncthreads();
      float b[8] = {};
      if (k0 + k < K) read_b(k0 + k, part * 8, b);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        m.a[k][part * 4 + i] = k0 + k < K ? read_a(k0 + k, part * 4 + i) : 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) m.b[k][part * 8 + i] = b[i];
      __syncthreads();
#pragma unroll
      for (int one = 0; one < deep; ++one) {
        float4 const right = *reinterpret_cast<float4 const*>(&m.b[one][column()]);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float const left = m.a[one][row() + i];
          at[i][0] = fmaf(left, right.x, at[i][0]), at[i][1] = fmaf(left, right.y, at[i][1]);
          at[i][2] = fmaf(left, right.z, at[i][2]), at[i][3] = fmaf(left, right.w, at[i][3]);
        }
      }
    }
  }
};

/// router_product of combine.cuh: dlogits router and dgate gate, for 64 tokens and 128 columns.
template <class T>
struct single_router_product {
  static constexpr int tokens = single_sums::rows, columns = single_sums::columns;
  union alignas(16) memory {
    single_sums::operands from;
    float sums[tokens][columns];
  };
  combined<T> const& c;
  router_part<T> const& r;
  int t0, d0, experts;

  __device__ void operator()(memory& m) {
    single_sums sum;
    sum.multiply(
        m.from, experts,
        [&](int e, int row) {
          std::int64_t const t = t0 + row;
          return t >= c.tokens ? 0.0f : e < r.routed ? r.dlogits[t * r.routed + e] : r.dgate[t];
        },
        [&](int e, int column, float(&to)[8]) {
          T const* const row = e < r.routed ? r.router + std::int64_t{e} * c.hidden : r.shared_gate;
          if (d0 + column < c.hidden) unpack<T>(to, load_eight_constant(row + d0 + column));
        });
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i)
      *reinterpret_cast<float4*>(&m.sums[sum.row() + i][sum.column()]) = {
          sum.at[i][0], sum.at[i][1], sum.at[i][2], sum.at[i][3]};
    __syncthreads();
  }
};

/// router_weights_kernel of logits.cuh.
template <class T>
__global__ __launch_bounds__(256) void single_router_weights_kernel(T const* x,
                                                                    float const* dlogits,
                                                                    float const* dgate, float* sums,
                                                                    int tokens, int R, int columns,
                                                                    int D, int run) {
  __shared__ alignas(16) single_sums::operands memory;
  int const d0 = blockIdx.x * single_sums::columns, e0 = blockIdx.y * single_sums::rows;
  std::int64_t const begin = std::int64_t{blockIdx.z} * run;
  auto const count = static_cast<int>(min(std::int64_t{tokens}, begin + run) - begin);
  single_sums sum;
  sum.multiply(
      memory, count,
      [&](int k, int row) {
        std::int64_t const t = begin + k;
        int const e = e0 + row;
        return e >= columns ? 0.0f : e < R ? dlogits[t * R + e] : dgate[t];
      },
      [&](int k, int column, float(&to)[8]) {
        if (d0 + column < D) unpack<T>(to, load_eight_constant(x + (begin + k) * D + d0 + column));
      });
  int const d = d0 + sum.column();
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (int const e = e0 + sum.row() + i; e < columns && d < D)
      *reinterpret_cast<float4*>(sums + (std::int64_t{blockIdx.z} * columns + e) * D + d) = {
          sum.at[i][0], sum.at[i][1], sum.at[i][2], sum.at[i][3]};
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
