// The choice: from logits to scores, experts, weights and rows. A warp for each token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dispatch.cuh"
#include "logits.cuh"
#include "report.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// An integer that is larger for a larger key: 1 for NaN, 0 for none. -0 is +0.
__device__ inline unsigned rank_of(float key) {
  if (key != key) return 1;
  auto const bits = __float_as_uint(key + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float key_of(unsigned rank) {
  if (rank == 1) return __uint_as_float(0x7fffffffu);
  return __uint_as_float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

/// Of a warp's R numbers in registers, lane l has those of l, l + 32, ...: the index of its n-th.
__device__ inline int index_of(int n) { return n * 32 + static_cast<int>(threadIdx.x % 32); }

/// A warp takes the best of its ranks, one after the other; in equal ones the lowest index.
template <int N>
struct selector {
  unsigned ranks[N], best = 0;
  int index = INT32_MAX;

  __device__ void find() {
    best = 0, index = INT32_MAX;
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (ranks[n] > best) best = ranks[n], index = index_of(n);
  }
  __device__ int take() {
    unsigned const highest = __reduce_max_sync(all_lanes, best);
    int const taken = __reduce_min_sync(all_lanes, best == highest ? index : INT32_MAX);
    if (index == taken) {
#pragma unroll
      for (int n = 0; n < N; ++n)
        if (index_of(n) == taken) ranks[n] = 0;
      find();
    }
    return taken;
  }
};

/// Scores of a token's logits, in place.
template <int N>
__device__ void score_forward(routing_rules const& c, float (&s)[N]) {
  if (c.score == score::softmax) {
    float highest = -INFINITY, total = 0;
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (index_of(n) < c.routed) highest = fmaxf(highest, s[n]);
    for (int step = 16; step > 0; step /= 2)
      highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, step));
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (index_of(n) < c.routed) total += s[n] = expf(s[n] - highest);
    total = vector::warp_sum(total);
#pragma unroll
    for (int n = 0; n < N; ++n) s[n] /= total;
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float const small = expf(-fabsf(s[n]));
      s[n] = c.score == score::sigmoid ? (s[n] < 0 ? small : 1.0f) / (1 + small)
                                       : sqrtf(fmaxf(s[n], 0.0f) + log1pf(small));
    }
  }
  if (!c.round) return;
#pragma unroll
  for (int n = 0; n < N; ++n) s[n] = rounded(s[n]);
}

/// allowed[g] = whether group g is among the best group_limit. A group is worth the sum of its best
/// keys, best first. `ranks` (R), `worth` and `allowed` (groups) are the warp's. 2^group_shift lanes
/// work on a group, as many as there are for each.
__device__ inline void limit_groups(routing_rules const& c, unsigned const* ranks, unsigned* worth,
                                    int* allowed) {
  int const lane = threadIdx.x % 32, size = c.routed / c.groups, shift = c.group_shift;
  int const part = lane & ((1 << shift) - 1), which = lane >> shift;
  int const steps = (size + (1 << shift) - 1) >> shift;
  for (int g0 = 0; g0 < c.groups; g0 += 32 >> shift) {
    int const g = g0 + which;
    float total = 0;
    unsigned long long last = ~0ull;
    for (int n = 0; n < c.counted; ++n) {
      unsigned long long best = 0;
      int step = which % steps;  // each group begins at another bank
#pragma unroll 4
      for (int i = 0; i < steps; ++i) {
        int const at = part + (step << shift);
        unsigned const rank = at < size && g < c.groups ? ranks[g * size + at] : 0;
        unsigned long long const id = static_cast<unsigned long long>(rank) << 32 | unsigned(~at);
        best = id < last && id > best ? id : best;
        step = step + 1 < steps ? step + 1 : 0;
      }
      for (int lanes = 1; lanes < 1 << shift; lanes *= 2)
        best = max(best, __shfl_xor_sync(all_lanes, best, lanes));
      float const key = key_of(static_cast<unsigned>(best >> 32));
      total = n == 0 ? key : total + key;
      last = best;
    }
    if (part == 0 && g < c.groups) worth[g] = rank_of(total);
  }
  __syncwarp();
  for (int g = lane; g < c.groups; g += 32) {
    int better = 0;
    for (int other = 0; other < c.groups; ++other)
      better += worth[other] > worth[g] || (worth[other] == worth[g] && other < g);
    allowed[g] = better < c.group_limit;
  }
  __syncwarp();
}

/// The experts that a table has for tokens' ids: distinct and in range, whatever it holds. An id
/// that the table does not have is read as the nearest.
template <class T>
__global__ void look_up_kernel(routing_rules c, summed<T> table, std::int32_t const* ids,
                               std::int32_t* experts, int tokens) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  std::int64_t const row = std::int64_t{min(max(ids[t], 0), c.vocabulary - 1)} * c.table_columns;
  std::int32_t* const mine = experts + t * c.k;
  for (int slot = 0; slot < c.k; ++slot) {
    double const entry = table[row + slot];
    auto expert =
        static_cast<int>(entry >= 0 && entry < 9e15 ? static_cast<long long>(entry) % c.routed : 0);
    for (int n = 0; n < slot; ++n)
      if (mine[n] == expert) {
        expert = expert + 1 < c.routed ? expert + 1 : 0;
        n = -1;  // the next one may be taken too
      }
    mine[slot] = expert;
  }
}

/// Weight of slot `slot`, from the chosen experts' scores, or logits where softmax is of these. Below 0
/// there is no expert.
__device__ inline float weigh_forward(routing_rules const& c, float const* numbers,
                                      int const* picked, int slot) {
  if (picked[slot] < 0) return 0;
  float const mine = numbers[picked[slot]];
  float weight, total = 0;
  if (c.of_chosen) {
    float highest = mine;
    for (int n = 0; n < c.k; ++n)
      if (picked[n] >= 0) highest = fmaxf(highest, numbers[picked[n]]);
    for (int n = 0; n < c.k; ++n)
      if (picked[n] >= 0) total += expf(numbers[picked[n]] - highest);
    weight = expf(mine - highest);
    if (total > 0) weight /= total;
  } else if (c.uniform) {
    weight = 1.0f / static_cast<float>(c.k);
  } else if (c.renormalise) {
    for (int n = 0; n < c.k; ++n) total += picked[n] < 0 ? 0 : numbers[picked[n]];
    if (c.round) total = rounded(total);
    weight = mine / ((total < c.floor ? c.floor : total) + c.epsilon);
    if (c.round) weight = rounded(weight);
  } else {
    weight = mine;
  }
  weight *= c.scale;
  return c.round || c.round_weights ? rounded(weight) : weight;
}

/// Shared memory of a warp, in numbers: scores (R), slots (k); and with groups ranks (R), what
/// groups are worth, and whether they are allowed.
constexpr int choice_words(routing_rules const& c) {
  return c.routed + c.k + (c.limited ? c.routed + 2 * c.groups : 0);
}
/// Blocks that a multiprocessor must have registers for.
FINEGRAIN_HD constexpr int choice_blocks(int N) { return N > 8 ? 1 : N > 2 ? 2 : 4; }

/// Token t's scores, experts and weights from its logits, by a warp with choice_words of `shared`. Given:
/// its experts may be there already.
template <int N, bool Given, class T>
__device__ void choose_token(routing_rules const& c, summed<T> bias, router_state const& s,
                             std::int64_t t, std::int32_t* shared) {
  int const lane = threadIdx.x % 32, R = c.routed, k = c.k;
  auto* const scores = reinterpret_cast<float*>(shared);
  auto* const picked = reinterpret_cast<int*>(scores + R);
  auto* const ranks = reinterpret_cast<unsigned*>(picked + k);
  unsigned* const worth = ranks + R;
  auto* const allowed = reinterpret_cast<int*>(worth + c.groups);
  float* const logits = s.logits + t * R;
  float mine[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    int const e = index_of(n);
    if (e < R && c.uniform) logits[e] = 0;
    mine[n] = e < R && !c.uniform ? logits[e] : 0.0f;
  }
  score_forward<N>(c, mine);
  selector<N> choice;
  if (s.best) {
#pragma unroll
    for (int n = 0; n < N; ++n) choice.ranks[n] = index_of(n) < R ? rank_of(mine[n]) : 0;
    choice.find();
    for (int n = 0; n < c.chosen; ++n) {
      int const e = choice.take();
      if (lane == 0) s.best[t * c.chosen + n] = e;
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    int const e = index_of(n);
    choice.ranks[n] = 0;
    if (e >= R) continue;
    float const key = s.keys ? s.keys[t * R + e] : c.by_logits ? logits[e] : mine[n];
    choice.ranks[n] = rank_of(key + (c.bias ? bias[e] : 0.0f));
    scores[e] = c.of_chosen ? logits[e] : mine[n];  // what weights are made of
    if (s.scores) s.scores[t * R + e] = mine[n];
    if (c.limited) ranks[e] = choice.ranks[n];
  }
  __syncwarp();
  if (Given && c.given) {
    for (int slot = lane; slot < k; slot += 32) picked[slot] = s.experts[t * k + slot];
  } else {
    if (c.limited) {
      limit_groups(c, ranks, worth, allowed);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        int const e = index_of(n);
        if (e < R && !allowed[e * c.group_inverse >> 20]) choice.ranks[n] = 0;
      }
    }
    choice.find();
    for (int slot = -c.mask_best; slot < k; ++slot) {
      int const e = choice.take();
      if (slot >= 0 && lane == 0) picked[slot] = e;
    }
  }
  __syncwarp();
  for (int slot = lane; slot < k; slot += 32) {
    s.experts[t * k + slot] = picked[slot];
    if (!(Given && c.weighed)) s.weights[t * k + slot] = weigh_forward(c, scores, picked, slot);
  }
  __syncwarp();
}

template <class T, int N>
__global__ __launch_bounds__(256, choice_blocks(N)) void choose_kernel(routing_rules c,
                                                                       summed<T> bias,
                                                                       router_state s, row_map rows,
                                                                       std::int32_t* block_counts,
                                                                       int chunk, int words) {
  extern __shared__ std::int32_t shared[];
  wait_for_launch_ahead();
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, R = c.routed, k = c.k;
  std::int32_t* const counts = shared;  // (R)
  for (int e = threadIdx.x; e < R; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  std::int64_t const begin = std::int64_t{blockIdx.x} * chunk;
  std::int64_t const end = min(std::int64_t{rows.tokens}, begin + chunk);
  for (std::int64_t t = begin + warp; t < end; t += blockDim.x / 32) {
    choose_token<N, true>(c, bias, s, t, shared + R + warp * words);
    for (int slot = lane; slot < k; slot += 32)
      if (int const e = s.experts[t * k + slot]; e >= 0) atomicAdd(counts + e, 1);
  }
  __syncthreads();
  if (gridDim.x == 1) {
    index_rows(rows, s.experts, s.weights, nullptr, 0, 1, begin, end, shared);
  } else {
    for (int e = threadIdx.x; e < R; e += blockDim.x)
      block_counts[std::int64_t{blockIdx.x} * R + e] = counts[e];
  }
}

template <class T, int N>
void choice<T, N>::choose(routing_rules const& c, router_numbers<T> const& w,
                          std::int32_t const* ids, router_state const& state, row_map const& rows,
                          std::int32_t* block_counts, CUstream_st* stream) {
  auto const chunks = token_chunks::of(rows.tokens, c.routed);
  int const R = c.routed, words = choice_words(c);
  int const warps = warps_that_fit(index_words(R, 0), words, 8);  // words >= R: index_rows fits
  if (c.hash && rows.tokens > 0) {
    look_up_kernel<T><<<unsigned((rows.tokens + 127) / 128), 128, 0, stream>>>(
        c, w.table, ids, state.experts, rows.tokens);
    check_launch("route: look up");
  }
  launch_overlapping(choose_kernel<T, N>, dim3(unsigned(chunks.blocks)), warps * 32,
                     4 * (index_words(R, 0) + warps * words), stream, "route: choose", c, w.bias,
                     state, rows, block_counts, chunks.tokens, words);
  if (chunks.blocks > 1) launch_index<T>(rows, state.experts, state.weights, block_counts, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
