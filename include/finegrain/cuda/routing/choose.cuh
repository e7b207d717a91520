// Choices that look at a whole batch: Sinkhorn, expert choice, chance, and what full experts and
// devices drop. See plan/assign.hpp, which is their specification.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifndef _CG_LIMIT_INCLUDED_DEPENDENCIES  // its own switch: what a grid needs is a tenth of all
#define _CG_LIMIT_INCLUDED_DEPENDENCIES
#endif
#include <cooperative_groups.h>

#include "logits.cuh"
#include "select.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

// ---- Sinkhorn -----------------------------------------------------------------------------------

/// sums[e] = the sum over tokens [begin, end) of by_token keys, in one order. All threads call it.
__device__ inline void sum_columns(float const* keys, double const* by_token, std::int64_t begin,
                                   std::int64_t end, int R, double* sums) {
  __shared__ double parts[512];
  int const wide = min((R + 31) / 32 * 32, 512), groups = 512 / wide;
  int const group = threadIdx.x / wide;
  for (int e0 = 0; e0 < R; e0 += wide) {
    int const e = e0 + threadIdx.x % wide;
    double sum = 0;
    for (std::int64_t t = begin + group; group < groups && e < R && t < end; t += groups)
      sum += by_token[t] * keys[t * R + e];
    __syncthreads();
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int g = 1; group == 0 && g < groups; ++g) sum += parts[g * wide + threadIdx.x];
    if (group == 0 && e < R) sums[e] = sum;
  }
}

/// keys (T, R) = e to the logits, each over its token's highest, balanced until the experts' factors
/// stand still; a token whose logits are not finite counts as one of equal logits. Every block makes
/// the factors from all blocks' sums, so that all go the same number of rounds. by_token and sums are
/// in f64, so that their order leaves no trace in keys of f32.
template <class T>
__global__ __launch_bounds__(512) void sinkhorn_kernel(float const* logits, float* keys,
                                                       double* by_token, double* sums, int tokens,
                                                       int R) {
  __shared__ double by_expert[1024], totals[32];
  auto const grid = cooperative_groups::this_grid();
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  std::int64_t const each = ceil_div(tokens, gridDim.x);
  std::int64_t const begin = min(std::int64_t{tokens}, blockIdx.x * each);
  std::int64_t const end = min(std::int64_t{tokens}, begin + each);
  for (std::int64_t t = begin + warp; t < end; t += 16) {
    float const* const from = logits + t * R;
    float* const to = keys + t * R;
    float highest = from[0], sum = 0;
    for (int e = lane; e < R; e += 32) highest = fmaxf(highest, from[e]);
    highest = vector::warp_most(highest);
    for (int e = lane; e < R; e += 32) sum += to[e] = expf(from[e] - highest);
    sum = vector::warp_sum(sum);
    for (int e = lane; e < R && !isfinite(sum); e += 32) to[e] = 1;
  }
  for (int e = threadIdx.x; e < R; e += 512) by_expert[e] = 1;
  double change = 1;
  for (int round = 0; change > 1e-4 && round < 1000; ++round) {
    __syncthreads();
    for (std::int64_t t = begin + warp; t < end; t += 16) {
      double sum = 0;
      for (int e = lane; e < R; e += 32) sum += by_expert[e] * keys[t * R + e];
      sum = vector::warp_sum(sum);
      if (lane == 0) by_token[t] = 1.0 / tokens / (sum + 1e-8);
    }
    __syncthreads();
    double* const all = sums + (round & 1) * std::int64_t{kind_scratch<T>::blocks} * R;
    sum_columns(keys, by_token, begin, end, R, all + std::int64_t{blockIdx.x} * R);
    grid.sync();
    change = 0;
    for (int e = threadIdx.x; e < R; e += 512) {
      double sum = 0;
      for (unsigned b = 0; b < gridDim.x; ++b) sum += all[std::int64_t{b} * R + e];
      double const factor = 1.0 / R / (sum + 1e-8);
      change += fabs(factor - by_expert[e]) / R;
      by_expert[e] = factor;
    }
    change = vector::block_sum(change, totals);
  }
  __syncthreads();
  for (std::int64_t i = begin * R + threadIdx.x; i < end * R; i += 512)
    keys[i] = static_cast<float>(keys[i] * by_expert[i % R] * by_token[i / R]);
}

// ---- expert choice ------------------------------------------------------------------------------

/// Scores of all tokens, a warp for each.
template <class T>
__global__ __launch_bounds__(256) void scores_kernel(routing_rules c, float const* logits,
                                                     float* scores, int tokens) {
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  float mine[32];
#pragma unroll
  for (int n = 0; n < 32; ++n)
    mine[n] = index_of(n) < c.routed ? logits[t * c.routed + index_of(n)] : 0.0f;
  score_forward<32>(c, mine);
#pragma unroll
  for (int n = 0; n < 32; ++n)
    if (index_of(n) < c.routed) scores[t * c.routed + index_of(n)] = mine[n];
}

template <class T>
void kinds<T>::scores(routing_rules const& c, router_state const& state, std::int64_t tokens,
                      CUstream_st* on) {
  if (tokens == 0) return;
  scores_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(c, state.logits, state.scores,
                                                               static_cast<int>(tokens));
  check_launch("route: scores");
}

/// experts (T, R): column e is e in the rows of the `share` tokens that expert e takes. A block for
/// each expert.
template <class T>
__global__ __launch_bounds__(512) void take_tokens_kernel(float const* scores,
                                                          std::int32_t* experts, int tokens, int R,
                                                          std::int64_t share) {
  int const e = blockIdx.x;
  auto const key = [&](std::int64_t t) {
    return key_at(scores[t * R + e], static_cast<unsigned>(t));
  };
  wide_key const last = nth_largest(key, tokens, share);
  for (std::int64_t t = threadIdx.x; t < tokens; t += blockDim.x)
    experts[t * R + e] = key(t) >= last ? e : no_expert;
}
/// The used slots of each row come first, in order: a warp for each.
template <class T>
__global__ __launch_bounds__(256) void compact_kernel(std::int32_t* experts, int tokens, int R) {
  int const lane = threadIdx.x % 32;
  std::int64_t const t = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (t >= tokens) return;
  std::int32_t* const row = experts + t * R;
  int used = 0;
  for (int e0 = 0; e0 < R; e0 += 32) {
    std::int32_t const e = e0 + lane < R ? row[e0 + lane] : no_expert;
    unsigned const there = __ballot_sync(all_lanes, e != no_expert);
    if (e != no_expert) row[used + __popc(there & ((1u << lane) - 1))] = e;
    used += __popc(there);
  }
  __syncwarp();
  for (int slot = used + lane; slot < R; slot += 32) row[slot] = no_expert;
}

template <class T>
void kinds<T>::prepare(routing_rules const& c, router_kinds const& kinds, router_state const& state,
                       kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* on) {
  if (tokens == 0) return;
  if (kinds.sinkhorn) {
    float const* logits = state.logits;
    auto count = static_cast<int>(tokens), R = c.routed;
    void* arguments[] = {&logits,
                         const_cast<float**>(&t.keys),
                         const_cast<double**>(&t.by_token),
                         const_cast<double**>(&t.sums),
                         &count,
                         &R};
    auto const blocks = static_cast<unsigned>(at_most((count + 31) / 32, kind_scratch<T>::blocks));
    check(
        cudaLaunchCooperativeKernel(sinkhorn_kernel<T>, dim3(blocks), dim3(512), arguments, 0, on),
        "route: Sinkhorn");
  }
  if (kinds.by_expert) {
    scores(c, state, tokens, on);
    auto const count = static_cast<int>(tokens);
    take_tokens_kernel<T><<<unsigned(c.routed), 512, 0, on>>>(state.scores, state.experts, count,
                                                              c.routed, kinds.share);
    check_launch("route: expert choice");
    compact_kernel<T><<<unsigned((tokens + 7) / 8), 256, 0, on>>>(state.experts, count, c.routed);
    check_launch("route: expert choice, slots");
  }
}

// ---- what is dropped ----------------------------------------------------------------------------

/// Second experts by chance.
template <class T>
__global__ void chance_kernel(std::int32_t* experts, float* weights, int tokens, float scale,
                              std::uint64_t const* of_pass) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  double const drawn =
      random_uniform(seed_of(*of_pass, draw::chance), static_cast<std::uint64_t>(t));
  if (!(drawn >= 2 * double(weights[2 * t + 1]) / double(scale))) return;
  experts[2 * t + 1] = ~experts[2 * t + 1];
  weights[2 * t + 1] = 0;
}

/// Which slots a full expert or device drops.
enum class dropped { least_weight, last, least_weight_not_exempt };

/// Of each of gridDim.x equal parts of the experts, all but the `room` first slots in the order of
/// `how`. A block for each part: it alone writes its slots, and others, which may read them meanwhile
/// (hence volatile), tell by their expert, dropped or not, that they are not theirs.
template <class T>
__global__ __launch_bounds__(512) void drop_kernel(std::int32_t volatile* experts, float* weights,
                                                   std::int64_t slots, int k, int size,
                                                   std::int64_t room, dropped how, double exempt,
                                                   sequence_starts starts,
                                                   std::uint64_t const* of_pass) {
  int const part = blockIdx.x;
  std::uint64_t const seed =
      how == dropped::least_weight_not_exempt ? seed_of(*of_pass, draw::exempt) : 0;
  auto const is_exempt = [&](std::int64_t n) {
    auto const sequence = static_cast<std::uint64_t>(sequence_of(starts, n / k));
    return random_uniform(seed, sequence) < exempt;
  };
  auto const key = [&](std::int64_t n) -> wide_key {
    std::int32_t const e = experts[n];
    if (!is_kept(e) || e / size != part) return 0;
    auto const place = static_cast<unsigned>(n);
    if (how == dropped::last) return wide_key{~static_cast<unsigned>(n % k)} << 32 | ~place;
    if (how == dropped::least_weight) return key_at(weights[n], place);
    return wide_key{is_exempt(n)} << 63 | wide_key{rank_of(weights[n])} << 31 |
           (place ^ 0x7fffffffu);
  };
  wide_key const last = nth_largest(key, slots, room);
  __syncthreads();
  if (last == 0) return;
  for (std::int64_t n = threadIdx.x; n < slots; n += blockDim.x) {
    wide_key const mine = key(n);
    if (mine == 0 || mine >= last) continue;
    if (how == dropped::least_weight_not_exempt && mine >> 63) continue;
    experts[n] = ~experts[n];
    weights[n] = 0;
  }
}

template <class T>
void drop_slots(routing_rules const& c, router_kinds const& kinds, router_state const& state,
                kind_state const& saved, sequence_starts starts, std::int64_t tokens,
                CUstream_st* on) {
  std::int64_t const slots = tokens * c.k;
  if (kinds.chance) {
    chance_kernel<T><<<unsigned((tokens + 255) / 256), 256, 0, on>>>(
        state.experts, state.weights, static_cast<int>(tokens), c.scale, saved.seed);
    check_launch("route: chance");
  }
  auto const drop = [&](int parts, std::int64_t room, dropped how) {
    if (room == 0) return;
    drop_kernel<T><<<unsigned(parts), 512, 0, on>>>(state.experts, state.weights, slots, c.k,
                                                    c.routed / parts, room, how, kinds.exempt,
                                                    starts, saved.seed);
    check_launch("route: drop");
  };
  drop(kinds.devices, kinds.device_room, dropped::least_weight_not_exempt);
  drop(c.routed, kinds.room, kinds.last ? dropped::last : dropped::least_weight);
}

template <class T>
void kinds<T>::drop(routing_rules const& c, router_kinds const& kinds, router_state const& state,
                    kind_state const& saved, sequence_starts starts, row_map const& rows,
                    std::int32_t* block_counts, CUstream_st* on) {
  if (!kinds.drops() || rows.tokens == 0) return;
  drop_slots<T>(c, kinds, state, saved, starts, rows.tokens, on);
  dispatch<T>::build(rows, state.experts, state.weights, block_counts, on);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
