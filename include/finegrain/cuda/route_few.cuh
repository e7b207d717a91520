// choice::forward: all of it in one launch for few tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "route.cuh"
#include "router_weights.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What route_few_kernel is for.
template <class T>
bool few_to_route(routing_rules const& c, router_state const& s, row_map const& rows) {
  return s.arrivals && rows.tokens > 0 && rows.tokens <= few_routed_tokens && c.k <= 64 &&
         std::int64_t{rows.tokens} * c.k <= slots_of_one_block && !c.f64 && !c.given &&
         !c.uniform && (std::is_same_v<T, bf16> || (in_pairs<T> && !c.round_logits));
}

/// Whether this is the last of so many blocks to arrive, which then sees what the others wrote. The
/// counter begins and ends as 0.
__device__ inline bool arrives_last(std::int32_t* counter, int blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1) == blocks - 1;
    if (last) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

/// A block has the logits of 16 tokens and 8 N experts; the last one of these tokens chooses; the
/// last one of all makes the rows. Results are those of the kernels for many tokens, bit by bit.
template <class T, int N, int C>
__global__ __launch_bounds__(256, 2) void route_few_kernel(routing_rules c, router_numbers<T> w,
                                                           T const* x, router_state s, row_map rows,
                                                           int words) {
  extern __shared__ std::int32_t shared[];
  int const e0 = static_cast<int>(blockIdx.x) * 8 * N, t0 = static_cast<int>(blockIdx.y) * 16;
  int const warp = threadIdx.x / 32, R = c.routed, D = c.hidden, tokens = rows.tokens;
  for (int i = threadIdx.x * 64; i < min(8 * N, R - e0) * D; i += blockDim.x * 64)
    prefetch(w.router + std::int64_t{e0} * D + i);
  wait_for_launch_ahead();
  block_logits<T, 1, N>(x, w.router, s.logits, t0, e0, tokens, R, D, c.round_logits);
  if (!arrives_last(s.arrivals + 1 + blockIdx.y, gridDim.x)) return;
  bool const alone = gridDim.y == 1;  // then what is chosen need not go by memory
  router_state mine = s;
  if (alone) {
    mine.experts = shared + max(8 * words, index_words(R, 8));
    mine.weights = reinterpret_cast<float*>(mine.experts + 16 * c.k);
  }
  for (int t = t0 + warp; t < min(t0 + 16, tokens); t += 8)
    choose_token<C>(c, w.bias, mine, t, shared + warp * words);
  if (!alone && !arrives_last(s.arrivals, gridDim.y)) return;
  __syncthreads();
  for (int i = threadIdx.x; alone && i < tokens * c.k; i += blockDim.x)
    s.experts[i] = mine.experts[i], s.weights[i] = mine.weights[i];
  index_rows(rows, mine.experts, mine.weights, nullptr, 0, 1, 0, tokens, shared);
}

template <class T, int N>
void launch_route_few(routing_rules const& c, router_numbers<T> const& w, T const* x,
                      router_state const& state, row_map const& rows, CUstream_st* stream) {
  int const words = choice_words(c), R = c.routed;
  auto const launch = [&](auto kernel, int experts) {
    launch_overlapping(kernel,
                       dim3(unsigned(ceil_div(R, experts)), unsigned(rows.tokens + 15) / 16), 256,
                       4 * (at_least(8 * words, index_words(R, 8)) + 32 * c.k), stream,
                       "route: few tokens", c, w, x, state, rows, words);
  };
  if (rows.tokens <= 64)  // small tiles, for more blocks
    launch(route_few_kernel<T, 1, N>, 8);
  else
    launch(route_few_kernel<T, 4, N>, 32);
}

template <class T, int N>
void choice<T, N>::forward(routing_rules const& c, router_numbers<T> const& w, T const* x,
                           std::int32_t const* ids, router_state const& state, row_map const& rows,
                           std::int32_t* block_counts, CUstream_st* stream) {
  if constexpr (in_pairs<T> && N <= 8)
    if (few_to_route<T>(c, state, rows))
      return launch_route_few<T, N>(c, w, x, state, rows, stream);
  route<T>::logits(c, w.router, x, state.logits, rows.tokens, stream);
  choose(c, w, ids, state, rows, block_counts, stream);
}

template <class T, int N>
using choice_code = code<&choice<T, N>::forward, &choice<T, N>::choose>;
template <class T>
using route_code =
    code<&route<T>::logits, &route<T>::shared_weight, &route<T>::balance, &route<T>::report,
         &route<T>::backward, &route<T>::shared_backward, &route<T>::weights_backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
