// combine: sums of experts' rows for each token. Bound by memory: every number is read once, 8 at a
// time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "combine.hpp"
#include "overlap.cuh"
#include "router_singly.cuh"
#include "router_tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// sum += weight * 8 numbers in a row.
template <class T>
__device__ void add_eight(float (&sum)[8], float weight, eight<T> const& from) {
  float numbers[8];
  unpack<T>(numbers, from);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] += weight * numbers[i];
}

/// sum (8) += token t's rows in columns d to d + 7. `many` rows are on their way at a time.
template <bool weighted, int many, class T>
__device__ void gather(float (&sum)[8], combined<T> const& c, std::int64_t t, int d,
                       float const* weights, float shared_weight) {
  std::int64_t const D = c.hidden;
  eight<T> shared{}, added{};
  if (c.shared) shared = load_eight(c.shared + t * D + d);
  if (c.add) added = load_eight(c.add + t * D + d);
  for (int slot0 = 0; slot0 < c.slots; slot0 += many) {
    eight<T> from[many];
    float weight[many];
#pragma unroll
    for (int i = 0; i < many; ++i) {
      std::int64_t const slot = t * c.slots + slot0 + i;
      std::int64_t const row = slot0 + i < c.slots ? c.slot_row[slot] : -1;
      from[i] = row >= 0 ? load_eight(c.routed + row * D + d) : eight<T>{};
      weight[i] = row < 0 ? 0.0f : weighted ? weights[slot] : 1.0f;
    }
#pragma unroll
    for (int i = 0; i < many; ++i) add_eight(sum, weight[i], from[i]);
  }
  if (c.shared) add_eight(sum, shared_weight, shared);
  if (c.add) add_eight(sum, 1, added);
}

/// A block is a token, or an equal part of one. Without divisions: they took longer than the sums.
template <bool weighted, class T>
__global__ __launch_bounds__(512) void combine_kernel(combined<T> c, float const* weights,
                                                      float const* shared_weight,
                                                      float shared_scale, T* y) {
  wait_for_launch_ahead();
  std::int64_t const t = blockIdx.x;
  int const d = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (d >= c.hidden) return;
  float sum[8] = {};
  gather<weighted, 8>(sum, c, t, d, weights, shared_weight ? shared_weight[t] : shared_scale);
  store_eight(y + t * c.hidden + d, pack<T>(sum));
}
template <bool weighted, class T>
void launch_combine(combined<T> const& from, float const* weights, float const* shared_weight,
                    float shared_scale, T* y, CUstream_st* stream) {
  if (from.tokens == 0) return;
  unsigned const pieces = static_cast<unsigned>(from.hidden) / 8, parts = (pieces + 511) / 512;
  int const threads = static_cast<int>(ceil_div(pieces, parts) + 31) / 32 * 32;
  launch_overlapping(combine_kernel<weighted, T>, dim3(static_cast<unsigned>(from.tokens), parts),
                     threads, 0, stream, "combine", from, weights, shared_weight, shared_scale, y);
}

template <class T>
void combine<T>::forward(combined<T> const& from, float const* weights, float const* shared_weight,
                         float shared_scale, T* y, CUstream_st* stream) {
  launch_combine<true>(from, weights, shared_weight, shared_scale, y, stream);
}

// ---- backward -----------------------------------------------------------------------------------

/// A router's part of dx for 64 tokens and 128 columns, in tensor cores: 8 warps of 32 x 32, experts
/// 32 at a time. dlogits are taken as two numbers of 16 bits each. Column R is the shared gate's.
template <class T>
struct router_product {
  static constexpr int tokens = 64, columns = 128, deep = 32;
  struct operands {
    std::uint16_t high[tokens][deep + 8],
        low[tokens][deep + 8];  // 16 bytes over: no bank conflicts
    std::uint16_t router[deep][columns + 8];
  };
  union alignas(16) memory {
    operands from;
    float sums[tokens][columns];
  };
  combined<T> const& c;
  router_part<T> const& r;
  int t0, d0, experts;  // R, and 1 with a gate
  float dlogits[8];
  eight<T> router[2];

  __device__ void read(int e0) {
    int const thread = threadIdx.x, R = r.routed;
    int const t = t0 + thread / 4;
    float const* const row = r.dlogits + std::int64_t{t} * R;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int const e = e0 + thread % 4 * 8 + i;
      bool const there = t < c.tokens && e < experts;
      dlogits[i] = !there ? 0.0f : e < R ? row[e] : r.dgate[t];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int const e = e0 + i * 16 + thread / 16, d = d0 + thread % 16 * 8;
      T const* const row = e < R ? r.router + std::int64_t{e} * c.hidden : r.shared_gate;
      router[i] = e < experts && d < c.hidden ? load_eight(row + d) : eight<T>{};
    }
  }
  __device__ void write(operands& to) const {
    int const thread = threadIdx.x;
    unsigned high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      split_pair<T> const two(dlogits[2 * i], dlogits[2 * i + 1]);
      high[i] = two.high, low[i] = two.low;
    }
    int const e = thread % 4 * 8;
    *reinterpret_cast<uint4*>(&to.high[thread / 4][e]) = {high[0], high[1], high[2], high[3]};
    *reinterpret_cast<uint4*>(&to.low[thread / 4][e]) = {low[0], low[1], low[2], low[3]};
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<uint4*>(&to.router[i * 16 + thread / 16][thread % 16 * 8]) =
          router[i].words[0];
  }
  /// Leaves the product in memory.sums.
  __device__ void operator()(memory& m) {
    int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int const wt = warp / 4 * 32, wd = warp % 4 * 32;
    float sum[2][4][4] = {};
    read(0);
    for (int e0 = 0; e0 < experts; e0 += deep) {
      __syncthreads();
      write(m.from);
      __syncthreads();
      if (e0 + deep < experts) read(e0 + deep);
#pragma unroll
      for (int k = 0; k < deep; k += 16) {
        unsigned b[2][4];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          load_matrices<true>(
              b[j], shared_address(&m.from.router[k + lane % 16][wd + j * 16 + lane / 16 * 8]));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          int const t = wt + i * 16 + lane % 16, e = k + lane / 16 * 8;
          unsigned a[4], rest[4];
          load_matrices<false>(a, shared_address(&m.from.high[t][e]));
          load_matrices<false>(rest, shared_address(&m.from.low[t][e]));
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            unsigned const b0 = b[n / 2][n % 2 * 2], b1 = b[n / 2][n % 2 * 2 + 1];
            multiply_add<T>(sum[i][n], a, b0, b1);
            multiply_add<T>(sum[i][n], rest, b0, b1);
          }
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int const t = wt + i * 16 + half * 8 + lane / 4, d = wd + n * 8 + lane % 4 * 2;
          *reinterpret_cast<float2*>(&m.sums[t][d]) = {sum[i][n][half * 2],
                                                       sum[i][n][half * 2 + 1]};
        }
    __syncthreads();
  }
};

template <class T>
struct chosen_router_product : router_product<T> {};
template <class T>
requires(!in_pairs<T>) struct chosen_router_product<T> : single_router_product<T> {
};

/// dx of 64 tokens and 128 columns: the router's part, then the experts' rows.
template <class T>
__global__ __launch_bounds__(256, 3) void combine_backward_kernel(combined<T> c, router_part<T> r,
                                                                  T* dx) {
  using product = chosen_router_product<T>;
  __shared__ typename product::memory memory;
  int const t0 = blockIdx.y * product::tokens, d0 = blockIdx.x * product::columns;
  product{{c, r, t0, d0, r.routed + (r.dgate != nullptr)}}(memory);
  int const piece = threadIdx.x % 16 * 8, d = d0 + piece;
  for (int i = threadIdx.x / 16; i < product::tokens; i += 16) {
    if (t0 + i >= c.tokens || d >= c.hidden) return;
    float sum[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) sum[n] = memory.sums[i][piece + n];
    gather<false, 4>(sum, c, t0 + i, d, nullptr, 1);
    store_eight(dx + std::int64_t{t0 + i} * c.hidden + d, pack<T>(sum));
  }
}

template <class T>
void combine<T>::backward(combined<T> const& from, router_part<T> const& router, T* dx,
                          CUstream_st* stream) {
  if (from.tokens == 0) return;
  if (router.routed == 0 && !router.dgate)
    return launch_combine<false>(from, nullptr, nullptr, 1, dx, stream);
  using product = chosen_router_product<T>;
  dim3 const grid(unsigned(ceil_div(from.hidden, product::columns)),
                  unsigned(ceil_div(from.tokens, product::tokens)));
  combine_backward_kernel<T><<<grid, 256, 0, stream>>>(from, router, dx);
  check_launch("combine: backward");
}

template <class T>
using combine_code = code<&combine<T>::forward, &combine<T>::backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
