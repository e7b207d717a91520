// The load loss of noisy routers, the gradient of noise, and quantiles for selection biases.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "logits.cuh"
#include "select.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What a token's logits have to beat: the last chosen expert's, or the next one's where they are
/// chosen themselves. A warp makes it; see noisy_choice in plan/balance.hpp.
struct rivals {
  int last, next;  // experts
  unsigned rank;   // the last chosen one's

  __device__ rivals(float const* logits, int R, int k) {
    selector<32> choice;
#pragma unroll
    for (int n = 0; n < 32; ++n)
      choice.ranks[n] = index_of(n) < R ? rank_of(logits[index_of(n)]) : 0;
    choice.find();
    for (int slot = 0; slot < k; ++slot) last = choice.take();
    next = choice.take();
    rank = rank_of(logits[last]);
  }
  __device__ bool chosen(float logit, int e) const {
    unsigned const mine = rank_of(logit);
    return mine > rank || (mine == rank && e <= last);
  }
  __device__ int of(float logit, int e) const { return chosen(logit, e) ? next : last; }
};

/// Number n = t R + e of the logits before noise, less the rival's, in deviations.
__device__ inline float clean_margin(float const* logits, float const* spread,
                                     rivals const& to_beat, std::uint64_t seed, std::int64_t t,
                                     int e, int R) {
  float const *const mine = logits + t * R, soft = softplus(spread[t * R + e]);
  float const clean = mine[e] - noise_of(seed, t * R + e) * soft;
  return (clean - mine[to_beat.of(mine[e], e)]) / (soft + 1e-10f);
}

/// chances (T, R): that fresh noise on its own logit alone would have a token choose an expert.
template <class T>
__global__ __launch_bounds__(256) void chances_kernel(float const* logits, float const* spread,
                                                      float* chances, int tokens, int R, int k,
                                                      std::uint64_t const* of_pass) {
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  std::uint64_t const seed = seed_of(*of_pass, draw::noise);
  rivals const to_beat(logits + t * R, R, k);
  for (int e = threadIdx.x % 32; e < R; e += 32)
    chances[t * R + e] =
        erfcf(-clean_margin(logits, spread, to_beat, seed, t, e, R) * 0.70710678f) / 2;
}
/// smooth[e] = the sum of chances over tokens: a block for each expert.
template <class T>
__global__ __launch_bounds__(256) void chance_sums_kernel(float const* chances, float* smooth,
                                                          int tokens, int R) {
  __shared__ double totals[32];
  double sum = 0;
  for (std::int64_t t = threadIdx.x; t < tokens; t += 256) sum += chances[t * R + blockIdx.x];
  sum = vector::block_sum(sum, totals);
  if (threadIdx.x == 0) smooth[blockIdx.x] = static_cast<float>(sum);
}
/// smooth[R + e] = coefficient * d CV^2 / d smooth[e]. One block.
template <class T>
__global__ __launch_bounds__(1024) void chance_gradients_kernel(float* smooth, int R,
                                                                double coefficient) {
  __shared__ double sums[1024];
  for (int e = threadIdx.x; e < R; e += blockDim.x) sums[e] = smooth[e];
  __syncthreads();
  spread const all(sums, R);
  for (int e = threadIdx.x; e < R; e += blockDim.x)
    smooth[R + e] = all.backward(coefficient, sums[e]);
}

template <class T>
void kinds<T>::load(routing_rules const& c, double coefficient, router_state const& state,
                    kind_state const& saved, kind_scratch<T> const& t, std::int64_t tokens,
                    CUstream_st* on) {
  if (tokens == 0) return;
  auto const T_ = static_cast<int>(tokens);
  chances_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(
      state.logits, saved.spread, t.dspread, T_, c.routed, c.k, saved.seed);
  check_launch("route: load loss");
  chance_sums_kernel<T><<<unsigned(c.routed), 256, 0, on>>>(t.dspread, saved.smooth, T_, c.routed);
  check_launch("route: load loss, sums");
  chance_gradients_kernel<T><<<1, 1024, 0, on>>>(saved.smooth, c.routed, coefficient);
  check_launch("route: load loss, gradients");
}

/// dspread from dlogits, and what the load loss (if k > 0) adds to either. A warp for each token.
template <class T>
__global__ __launch_bounds__(256) void noise_backward_kernel(float const* logits,
                                                             float const* spread,
                                                             float const* dsmooth, float* dlogits,
                                                             float* dspread, int tokens, int R,
                                                             int k, std::uint64_t const* of_pass) {
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  if (t >= tokens) return;
  std::uint64_t const seed = seed_of(*of_pass, draw::noise);
  float *const d = dlogits + t * R, *const of_spread = dspread + t * R;
  float const* const soft = spread + t * R;
  auto const step = [&](int e, float z) {
    return dsmooth[e] * expf(-z * z / 2) * 0.39894228f / (softplus(soft[e]) + 1e-10f);
  };
  if (k > 0) {
    rivals const to_beat(logits + t * R, R, k);
    float of_last = 0, of_next = 0;
    for (int e = lane; e < R; e += 32) {
      float const z = clean_margin(logits, spread, to_beat, seed, t, e, R), s = step(e, z);
      bool const chosen = to_beat.chosen(logits[t * R + e], e);
      of_next += chosen ? s : 0, of_last += chosen ? 0 : s;
      of_spread[e] = z;  // until its own turn
    }
    of_last = vector::warp_sum(of_last), of_next = vector::warp_sum(of_next);
    if (lane == 0) d[to_beat.last] -= of_last, d[to_beat.next] -= of_next;
    __syncwarp();
  }
  for (int e = lane; e < R; e += 32) {
    float const z = k > 0 ? of_spread[e] : 0, s = k > 0 ? step(e, z) : 0;
    float const small = expf(-fabsf(soft[e])),
                logistic = (soft[e] < 0 ? small : 1.0f) / (1 + small);
    of_spread[e] = (d[e] * noise_of(seed, t * R + e) - s * z) * logistic;
    d[e] += s;
  }
}
template <class T>
void kinds<T>::noise_backward(routing_rules const& c, double load, router_state const& state,
                              kind_state const& saved, kind_scratch<T> const& t, float* dlogits,
                              std::int64_t tokens, CUstream_st* on) {
  if (tokens == 0) return;
  noise_backward_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(
      state.logits, saved.spread, saved.smooth + c.routed, dlogits, t.dspread,
      static_cast<int>(tokens), c.routed, load > 0 ? c.k : 0, saved.seed);
  check_launch("route: noise's gradient");
}

// ---- quantiles ----------------------------------------------------------------------------------

/// admission (T): the first key of each token that is not chosen. A warp for each.
template <class T>
__global__ __launch_bounds__(256) void admission_kernel(float const* from, summed<T> bias,
                                                        float* admission, int tokens, int R,
                                                        int k) {
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  selector<32> choice;
#pragma unroll
  for (int n = 0; n < 32; ++n) {
    int const e = index_of(n);
    choice.ranks[n] = e < R ? rank_of(from[t * R + e] + bias[e]) : 0;
  }
  choice.find();
  for (int slot = 0; slot < k; ++slot) choice.take();
  int const e = choice.take();
  if (threadIdx.x % 32 == 0) admission[t] = from[t * R + e] + bias[e];
}
/// A block for each expert.
template <class T>
__global__ __launch_bounds__(512) void quantiles_kernel(float const* from, float const* admission,
                                                        int tokens, int R, std::int64_t target,
                                                        double* quantile) {
  auto const key = [&](std::int64_t t) {
    return key_at(from[t * R + blockIdx.x] - admission[t], static_cast<unsigned>(t));
  };
  wide_key const found = nth_largest(key, tokens, target + 1);
  if (threadIdx.x == 0)
    quantile[blockIdx.x] = -static_cast<double>(key_of(static_cast<unsigned>(found >> 32)));
}
template <class T>
void kinds<T>::quantiles(routing_rules const& c, summed<T> bias, router_state const& state,
                         kind_scratch<T> const& t, std::int64_t tokens, double* quantile,
                         CUstream_st* on) {
  if (!c.bias || tokens == 0 || c.chosen == c.routed) return;
  float const* const from = c.by_logits ? state.logits : state.scores;
  auto const T_ = static_cast<int>(tokens);
  admission_kernel<T>
      <<<unsigned((tokens + 7) / 8), 256, 0, on>>>(from, bias, t.admission, T_, c.routed, c.chosen);
  check_launch("route: admission");
  quantiles_kernel<T><<<unsigned(c.routed), 512, 0, on>>>(from, t.admission, T_, c.routed,
                                                          tokens * c.chosen / c.routed, quantile);
  check_launch("route: quantiles");
}

/// What a router with a selection bias may need beside.
template <class T>
using biased_code = code<&kinds<T>::quantiles>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
