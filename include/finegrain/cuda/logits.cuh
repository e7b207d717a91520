// The router's logits = x router^T. routing/logits.cuh has those of rarer kinds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "overlap.cuh"
#include "route.hpp"
#include "router_tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Logits of 16 M tokens and 8 N experts. A block's 8 warps share out D, 32 columns at a time: warp w
/// has columns 32 (w + 8 i), read from global memory straight into the registers that mma wants (any
/// order of the columns will do, if x and the router have the same: a lane takes 8 in a row). Their
/// sums are added in pairs, so that no logit depends on the shape of the tile, or on other tokens.
template <class T, int M, int N>
struct logit_tile {
  struct operands {
    uint4 x[M][2], router[N];
  };
  float sum[M][N][4] = {};

  __device__ static uint4 load(T const* from, bool there) {
    return there ? *reinterpret_cast<uint4 const*>(from) : uint4{};
  }
  __device__ static operands read(T const* x, T const* router, std::int64_t tokens, int R, int D,
                                  int column) {
    int const g = threadIdx.x % 32 / 4, from = column + threadIdx.x % 4 * 8;
    operands o;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const row = m * 16 + half * 8 + g;
        o.x[m][half] = load(x + std::int64_t{row} * D + from, row < tokens && from < D);
      }
#pragma unroll
    for (int n = 0; n < N; ++n)
      o.router[n] = load(router + std::int64_t{n * 8 + g} * D + from, n * 8 + g < R && from < D);
    return o;
  }
  __device__ void add(operands const& o) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n) {
        uint4 const upper = o.x[m][0], lower = o.x[m][1], of_router = o.router[n];
        multiply_add<T>(sum[m][n], {upper.x, lower.x, upper.y, lower.y}, of_router.x, of_router.y);
        multiply_add<T>(sum[m][n], {upper.z, lower.z, upper.w, lower.w}, of_router.z, of_router.w);
      }
  }
};

/// Threads 0 .. 255 of a block wait for one another.
__device__ inline void sync_256() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

/// Logits of 16 M tokens from `first` on and 8 N experts from `expert` on, by threads 0 .. 255.
template <class T, int M, int N>
__device__ void block_logits(T const* x, T const* router, float* logits, std::int64_t first,
                             int expert, int tokens, int R, int D, bool round) {
  using tile = logit_tile<T, M, N>;
  constexpr int all = M * N * 4, some = all < 64 ? all : 64;  // a lane's sums, and at a time
  __shared__ float sums[4][some][32];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x += first * D;
  router += std::int64_t{expert} * D;
  std::int64_t const rows = tokens - first;
  tile t;
  // Reads are `ahead` steps ahead of their use: a small tile needs more to cover the memory's delay.
  constexpr int ahead = M * N > 16 ? 0 : M * N > 4 ? 1 : M * N > 1 ? 2 : 4;
  auto const read = [&](int column) { return tile::read(x, router, rows, R - expert, D, column); };
  if constexpr (ahead == 0) {
    for (int column = warp * 32; column < D; column += 256) t.add(read(column));
  } else {
    typename tile::operands next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) next[i] = read(warp * 32 + i * 256);
    for (int column = warp * 32; column < D; column += ahead * 256)
#pragma unroll
      for (int i = 0; i < ahead; ++i) {  // beyond D all are 0, and add nothing
        auto const now = next[i];
        next[i] = read(column + (ahead + i) * 256);
        t.add(now);
      }
  }
  float* const sum = &t.sum[0][0][0];
#pragma unroll
  for (int from = 0; from < all; from += some)
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
      sync_256();
      if (warp >= half && warp < 2 * half)
#pragma unroll
        for (int i = 0; i < some; ++i) sums[warp - half][i][lane] = sum[from + i];
      sync_256();
      if (warp < half)
#pragma unroll
        for (int i = 0; i < some; ++i) sum[from + i] += sums[warp][i][lane];
    }
  if (warp > 0) return;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int const row = m * 16 + i / 2 * 8 + lane / 4, e = n * 8 + lane % 4 * 2 + i % 2;
        float const sum = t.sum[m][n][i];
        if (row < rows && expert + e < R)
          logits[(first + row) * R + expert + e] = round ? rounded(sum) : sum;
      }
}

template <class T, int M, int N>
__global__ __launch_bounds__(256) void logits_kernel(T const* x, T const* router, float* logits,
                                                     int tokens, int R, int D, bool round) {
  wait_for_launch_ahead();
  block_logits<T, M, N>(x, router, logits, std::int64_t{blockIdx.x} * (16 * M),
                        static_cast<int>(blockIdx.y) * (8 * N), tokens, R, D, round);
}

__device__ inline float rounded_if(bool round, float x) { return round ? rounded(x) : x; }

/// Logits with products and sums in Sum, one by one: a warp for each token and 8 experts.
template <class Sum, class T>
__global__ __launch_bounds__(256) void single_logits_kernel(T const* x, T const* router,
                                                            float* logits, int tokens, int R, int D,
                                                            bool round) {
  int const lane = threadIdx.x % 32, groups = (R + 7) / 8;
  std::int64_t const job = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32, t = job / groups;
  int const expert = static_cast<int>(job % groups) * 8;
  if (t >= tokens) return;
  auto const read = [round](T const& from) -> Sum { return rounded_if(round, number(from)); };
  Sum sum[8] = {};
  for (int d = lane; d < D; d += 32) {
    Sum const at = read(x[t * D + d]);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      sum[i] += at * read(router[std::int64_t{min(expert + i, R - 1)} * D + d]);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum[i] = vector::warp_sum(sum[i]);
    auto const logit = static_cast<float>(sum[i]);
    if (lane == i && expert + i < R) logits[t * R + expert + i] = rounded_if(round, logit);
  }
}

template <class T>
void route<T>::logits(routing_rules const& c, T const* router, T const* x, float* logits,
                      std::int64_t tokens, CUstream_st* stream) {
  auto const T32 = static_cast<int>(tokens);
  if (c.uniform || tokens == 0) return;
  using vector::blocks_for;
  auto const singly = [&]<class Sum>(Sum) {
    single_logits_kernel<Sum><<<blocks_for(tokens * blocks_for(c.routed, 8), 8), 256, 0, stream>>>(
        x, router, logits, T32, c.routed, c.hidden, c.round_logits);
    check_launch("route: logits");
  };
  if (c.f64) {
    singly(double{});
  } else if constexpr (!in_pairs<T>) {
    singly(float{});
  } else {
    if constexpr (std::is_same_v<T, fp16>)  // whose operands are then rounded to bf16 too
      if (c.round_logits) return singly(float{});
    auto const launch = [&](auto kernel, int of_tokens, int of_experts) {
      launch_overlapping(
          kernel, dim3(blocks_for(tokens, of_tokens), blocks_for(c.routed, of_experts)), 256, 0,
          stream, "route: logits", x, router, logits, T32, c.routed, c.hidden, c.round_logits);
    };
    if (blocks_for(tokens, 32) * blocks_for(c.routed, 64) < 24)  // small tiles, for more blocks
      launch(logits_kernel<T, 1, 1>, 16, 8);
    else if (blocks_for(tokens, 64) * blocks_for(c.routed, 64) >= 132)
      launch(logits_kernel<T, 4, 8>, 64, 64);
    else
      launch(logits_kernel<T, 2, 8>, 32, 64);
  }
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
