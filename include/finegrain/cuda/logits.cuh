// The router's products: logits = x router^T, the shared gate, and the gradients of both weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "overlap.cuh"
#include "route.hpp"
#include "router_singly.cuh"
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

/// Logits of 16 M tokens from `first` on and 8 N experts from `expert` on, by a block of 256 threads.
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
      __syncthreads();
      if (warp >= half && warp < 2 * half)
#pragma unroll
        for (int i = 0; i < some; ++i) sums[warp - half][i][lane] = sum[from + i];
      __syncthreads();
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

/// Logits with products and sums in Sum, one by one: a warp for each token and 8 experts.
template <class Sum, class T>
__global__ __launch_bounds__(256) void single_logits_kernel(T const* x, T const* router,
                                                            float* logits, int tokens, int R, int D,
                                                            bool round) {
  int const lane = threadIdx.x % 32, groups = (R + 7) / 8;
  std::int64_t const job = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32, t = job / groups;
  int const expert = static_cast<int>(job % groups) * 8;
  if (t >= tokens) return;
  auto const read = [round](T const& from) -> Sum {
    return round ? rounded(number(from)) : number(from);
  };
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
    if (lane == i && expert + i < R) logits[t * R + expert + i] = round ? rounded(logit) : logit;
  }
}

template <class T>
void route<T>::logits(routing_rules const& c, T const* router, T const* x, float* logits,
                      std::int64_t tokens, CUstream_st* stream) {
  auto const T32 = static_cast<int>(tokens);
  if (c.uniform || tokens == 0) return;
  auto const blocks = [](std::int64_t n, int each) { return unsigned((n + each - 1) / each); };
  auto const singly = [&]<class Sum>(Sum) {
    single_logits_kernel<Sum><<<blocks(tokens * blocks(c.routed, 8), 8), 256, 0, stream>>>(
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
      launch_overlapping(kernel, dim3(blocks(tokens, of_tokens), blocks(c.routed, of_experts)), 256,
                         0, stream, "route: logits", x, router, logits, T32, c.routed, c.hidden,
                         c.round_logits);
    };
    if (blocks(tokens, 32) * blocks(c.routed, 64) < 24)  // small tiles, for more blocks
      launch(logits_kernel<T, 1, 1>, 16, 8);
    else if (blocks(tokens, 64) * blocks(c.routed, 64) >= 132)
      launch(logits_kernel<T, 4, 8>, 64, 64);
    else
      launch(logits_kernel<T, 2, 8>, 32, 64);
  }
}

// ---- the shared gate ----------------------------------------------------------------------------

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

// ---- the weights' gradients ---------------------------------------------------------------------

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
