// Logits of cosine, noisy and jittered routers, and their gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../logits.cuh"
#include "kinds.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

using draw = finegrain::detail::stream;
using finegrain::detail::seed_of;

template <class T>
__global__ void keep_seed_kernel(std::uint64_t seed, std::int64_t const* step, std::uint64_t router,
                                 std::uint64_t* to) {
  if (step) seed = random_word(random_word(seed, static_cast<std::uint64_t>(*step)), 0);
  *to = random_word(seed, router);
}
template <class T>
void kinds<T>::keep_seed(std::uint64_t seed, std::int64_t const* step, std::uint64_t router,
                         kind_state const& to, CUstream_st* on) {
  keep_seed_kernel<T><<<1, 1, 0, on>>>(seed, step, router, to.seed);
  check_launch("route: keep seed");
}

/// Number n of the router's input, times its factor. Without jitter x is as it is.
__device__ inline float jittered(float x, double jitter, std::uint64_t seed, std::int64_t n,
                                 bool round) {
  if (jitter > 0) x *= finegrain::detail::jitter_factor<float>(jitter, seed, n);
  return rounded_if(round, x);
}

// ---- products of x with jitter ------------------------------------------------------------------

/// y (T, columns) = x m^T of x with jitter, with sums in f64: a warp for each token and 8 columns.
template <class T>
__global__ __launch_bounds__(256) void jitter_product_kernel(T const* x, T const* m, float* y,
                                                             int tokens, int columns, int D,
                                                             double jitter,
                                                             std::uint64_t const* of_pass,
                                                             bool round_x, bool round_y) {
  int const lane = threadIdx.x % 32, groups = (columns + 7) / 8;
  std::int64_t const job = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32, t = job / groups;
  int const first = static_cast<int>(job % groups) * 8;
  if (t >= tokens) return;
  std::uint64_t const seed = seed_of(*of_pass, draw::jitter);
  double sum[8] = {};
  for (int d = lane; d < D; d += 32) {
    double const at =
        jittered(rounded_if(round_x, number(x[t * D + d])), jitter, seed, t * D + d, round_x);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      sum[i] +=
          at * rounded_if(round_x, number(m[std::int64_t{min(first + i, columns - 1)} * D + d]));
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    sum[i] = vector::warp_sum(sum[i]);
    auto const made = static_cast<float>(sum[i]);
    if (lane == i && first + i < columns) y[t * columns + first + i] = rounded_if(round_y, made);
  }
}

/// y (T, columns) = the router's input times m^T.
template <class T>
void product_of_input(routing_rules c, double jitter, std::uint64_t const* seed, T const* x,
                      T const* m, float* y, std::int64_t tokens, int columns, bool round,
                      CUstream_st* on) {
  if (tokens == 0) return;
  if (jitter > 0) {
    std::int64_t const jobs = tokens * ((columns + 7) / 8);
    jitter_product_kernel<T><<<unsigned((jobs + 7) / 8), 256, 0, on>>>(
        x, m, y, static_cast<int>(tokens), columns, c.hidden, jitter, seed, c.round_logits, round);
    return check_launch("route: product with jitter");
  }
  c.routed = columns;
  c.round_logits = round;
  route<T>::logits(c, m, x, y, tokens, on);
}

template <class T>
__global__ void jitter_kernel(T const* x, T* to, std::int64_t count, double jitter,
                              std::uint64_t const* of_pass) {
  std::int64_t const n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::uint64_t const seed = seed_of(*of_pass, draw::jitter);
  if (n < count) to[n] = T(jittered(number(x[n]), jitter, seed, n, false));
}
template <class T>
void kinds<T>::jitter(routing_rules const& c, double jitter, T const* x, kind_state const& saved,
                      kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* on) {
  std::int64_t const count = tokens * c.hidden;
  if (count == 0) return;
  jitter_kernel<T>
      <<<unsigned((count + 255) / 256), 256, 0, on>>>(x, t.input, count, jitter, saved.seed);
  check_launch("route: jitter");
}

/// 8 tokens and 256 columns of D a block.
template <class T>
__global__ __launch_bounds__(256) void input_backward_kernel(input_part<T> a, input_part<T> b,
                                                             double jitter,
                                                             std::uint64_t const* of_pass,
                                                             T const* add, T* to, int tokens,
                                                             int D) {
  __shared__ float d[8][128];
  std::int64_t const t0 = std::int64_t{blockIdx.x} * 8;
  int const column = blockIdx.y * 256 + threadIdx.x;
  int const count = static_cast<int>(min(std::int64_t{8}, tokens - t0));
  float sum[8] = {};
  for (input_part<T> const& part : {a, b})
    for (int c0 = 0; c0 < part.columns; c0 += 128) {
      int const some = min(128, part.columns - c0);
      __syncthreads();
      for (int i = threadIdx.x; i < 8 * some; i += 256)
        d[i / some][i % some] =
            i / some < count ? part.d[(t0 + i / some) * part.columns + c0 + i % some] : 0.0f;
      __syncthreads();
      for (int c = 0; c < some && column < D; ++c) {
        float const m = number(part.m[std::int64_t{c0 + c} * D + column]);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] += d[i][c] * m;
      }
    }
  if (column >= D) return;
  std::uint64_t const seed = jitter > 0 ? seed_of(*of_pass, draw::jitter) : 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    std::int64_t const n = (t0 + i) * D + column;
    if (i < count) to[n] = T(jittered(sum[i], jitter, seed, n, false) + (add ? number(add[n]) : 0));
  }
}
template <class T>
void kinds<T>::input_backward(routing_rules const& c, double jitter, input_part<T> const& a,
                              input_part<T> const& b, kind_state const& saved,
                              kind_scratch<T> const& t, T const* add, std::int64_t tokens,
                              CUstream_st* on) {
  if (tokens == 0) return;
  dim3 const grid(unsigned((tokens + 7) / 8), unsigned((c.hidden + 255) / 256));
  input_backward_kernel<T><<<grid, 256, 0, on>>>(a, b, jitter, saved.seed, add, t.dinput,
                                                 static_cast<int>(tokens), c.hidden);
  check_launch("route: input's gradient");
}

__device__ inline float softplus(float z) { return fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z))); }
/// The noise of number n of (T, R) logits, in deviations.
__device__ inline float noise_of(std::uint64_t seed, std::int64_t n) {
  return static_cast<float>(random_normal(seed, static_cast<std::uint64_t>(n)));
}
/// Logits (T, R) as they were before noise, if there was any.
struct clean_logits {
  float const *logits, *spread;  // without noise no spread
  std::uint64_t const* of_pass;

  __device__ float operator[](std::int64_t n) const {
    float const noise =
        spread ? noise_of(seed_of(*of_pass, draw::noise), n) * softplus(spread[n]) : 0.0f;
    return logits[n] - noise;
  }
};

// ---- cosines: see plan/logits.hpp, whose formulas these are -------------------------------------

__device__ inline float cosine_scale(float temperature) { return fminf(expf(temperature), 100.0f); }

/// lengths (rows) of vectors (rows, P): a warp for each.
template <class V>
__global__ __launch_bounds__(256) void lengths_kernel(V const* vectors, float* lengths, int rows,
                                                      int P) {
  std::int64_t const row = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  for (int n = threadIdx.x % 32; n < P; n += 32) {
    float const v = number(vectors[row * P + n]);
    sum += v * v;
  }
  sum = vector::warp_sum(sum);
  if (threadIdx.x % 32 == 0) lengths[row] = fmaxf(sqrtf(sum), 1e-12f);
}
template <class V>
void launch_lengths(V const* vectors, float* lengths, std::int64_t rows, int P, CUstream_st* on) {
  lengths_kernel<V>
      <<<unsigned((rows + 7) / 8), 256, 0, on>>>(vectors, lengths, static_cast<int>(rows), P);
  check_launch("route: lengths");
}

/// A warp for each token.
template <class T>
__global__ __launch_bounds__(256) void cosine_kernel(float const* projected, T const* router,
                                                     T const* temperature, float const* lengths,
                                                     float* logits, int tokens, int R, int P) {
  int const lane = threadIdx.x % 32;
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  float const scale = cosine_scale(number(*temperature)), size = lengths[R + t];
  for (int e = 0; e < R; ++e) {
    float dot = 0;
    for (int n = lane; n < P; n += 32) dot += projected[t * P + n] * number(router[e * P + n]);
    dot = vector::warp_sum(dot);
    if (lane == 0) logits[t * R + e] = scale * dot / (size * lengths[e]);
  }
}

/// dprojected of a token: a warp for each. `of_logits` is the sum of g logit over its experts.
template <class T>
__global__ __launch_bounds__(256) void cosine_tokens_kernel(
    float const* projected, T const* router, T const* temperature, float const* lengths,
    clean_logits logits, float const* dlogits, float* dprojected, int tokens, int R, int P) {
  int const lane = threadIdx.x % 32;
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  float const scale = cosine_scale(number(*temperature)), size = lengths[R + t];
  float of_logits = 0;
  for (int e = lane; e < R; e += 32) of_logits += dlogits[t * R + e] * logits[t * R + e];
  of_logits = vector::warp_sum(of_logits);
  for (int n = lane; n < P; n += 32) {
    float sum = 0;
    for (int e = 0; e < R; ++e) sum += dlogits[t * R + e] / lengths[e] * number(router[e * P + n]);
    dprojected[t * P + n] = (scale * sum - of_logits * projected[t * P + n] / size) / size;
  }
}

/// The gradient of an expert's vector: a block for each, 32 of its numbers at a time; a warp has
/// every 16th token.
template <class T>
__global__ __launch_bounds__(512) void cosine_experts_kernel(
    float const* projected, T const* router, T const* temperature, float const* lengths,
    clean_logits logits, float const* dlogits, T* drouter, bool accumulate, int tokens, int R,
    int P) {
  __shared__ float sums[16][32], totals[32];
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32, e = blockIdx.x;
  float const scale = cosine_scale(number(*temperature)), length = lengths[e];
  float of_logits = 0;
  for (std::int64_t t = threadIdx.x; t < tokens; t += 512)
    of_logits += dlogits[t * R + e] * logits[t * R + e];
  of_logits = vector::block_sum(of_logits, totals);
  for (int n0 = 0; n0 < P; n0 += 32) {
    int const n = n0 + lane;
    float sum = 0;
    for (std::int64_t t = warp; n < P && t < tokens; t += 16)
      sum += dlogits[t * R + e] * projected[t * P + n] / lengths[R + t];
    __syncthreads();
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || n >= P) continue;
    sum = 0;
    for (int w = 0; w < 16; ++w) sum += sums[w][lane];
    T* const to = drouter + e * P + n;
    float const made = (scale * sum - of_logits * number(router[e * P + n]) / length) / length;
    *to = T(made + (accumulate ? number(*to) : 0.0f));
  }
}

/// The temperature's gradient: sum of dlogits logits, where the scale is below its most. One block.
template <class T>
__global__ __launch_bounds__(1024) void temperature_kernel(clean_logits logits,
                                                           float const* dlogits,
                                                           T const* temperature, T* to,
                                                           bool accumulate, std::int64_t count) {
  __shared__ double totals[32];
  double sum = 0;
  bool const moves = cosine_scale(number(*temperature)) < 100;
  for (std::int64_t i = threadIdx.x; moves && i < count; i += 1024)
    sum += double(dlogits[i]) * logits[i];
  sum = vector::block_sum(sum, totals);
  if (threadIdx.x == 0) *to = T(static_cast<float>(sum) + (accumulate ? number(*to) : 0.0f));
}

template <class T>
void kinds<T>::cosine_backward(routing_rules const& c, int P, kind_numbers<T const> const& w,
                               router_state const& state, kind_state const& saved,
                               kind_scratch<T> const& t, float const* dlogits,
                               kind_numbers<T> const& dw, gradients mode, std::int64_t tokens,
                               CUstream_st* on) {
  bool const add = mode == gradients::accumulate;
  auto const count = static_cast<int>(tokens);
  clean_logits const logits{state.logits, saved.spread, saved.seed};
  launch_lengths(w.router, t.lengths, c.routed, P, on);
  if (tokens > 0) {
    launch_lengths<float>(saved.projected, t.lengths + c.routed, tokens, P, on);
    cosine_tokens_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(
        saved.projected, w.router, w.temperature, t.lengths, logits, dlogits, t.dprojected, count,
        c.routed, P);
    check_launch("route: cosines, tokens");
  }
  cosine_experts_kernel<T>
      <<<unsigned(c.routed), 512, 0, on>>>(saved.projected, w.router, w.temperature, t.lengths,
                                           logits, dlogits, dw.router, add, count, c.routed, P);
  check_launch("route: cosines, experts");
  temperature_kernel<T>
      <<<1, 1024, 0, on>>>(logits, dlogits, w.temperature, dw.temperature, add, tokens * c.routed);
  check_launch("route: temperature");
}

// ---- noise --------------------------------------------------------------------------------------

template <class T>
__global__ void noise_kernel(float const* spread, float* logits, std::int64_t count,
                             std::uint64_t const* of_pass) {
  std::int64_t const n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::uint64_t const seed = seed_of(*of_pass, draw::noise);
  if (n < count) logits[n] += noise_of(seed, n) * softplus(spread[n]);
}

template <class T>
void kinds<T>::logits(routing_rules const& c, router_kinds const& kinds,
                      kind_numbers<T const> const& w, T const* x, router_state const& state,
                      kind_state const& saved, kind_scratch<T> const& t, std::int64_t tokens,
                      CUstream_st* on) {
  if (c.uniform || tokens == 0) return;
  if (int const P = kinds.cosine; P > 0) {
    product_of_input(c, kinds.jitter, saved.seed, x, w.project, saved.projected, tokens, P, false,
                     on);
    launch_lengths(w.router, t.lengths, c.routed, P, on);
    launch_lengths<float>(saved.projected, t.lengths + c.routed, tokens, P, on);
    cosine_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(
        saved.projected, w.router, w.temperature, t.lengths, state.logits, static_cast<int>(tokens),
        c.routed, P);
    check_launch("route: cosines");
  } else {
    product_of_input(c, kinds.jitter, saved.seed, x, w.router, state.logits, tokens, c.routed,
                     c.round_logits, on);
  }
  if (!kinds.noisy) return;
  product_of_input(c, kinds.jitter, saved.seed, x, w.noise, saved.spread, tokens, c.routed, false,
                   on);
  std::int64_t const count = tokens * c.routed;
  noise_kernel<T><<<unsigned((count + 255) / 256), 256, 0, on>>>(saved.spread, state.logits, count,
                                                                 saved.seed);
  check_launch("route: noise");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
