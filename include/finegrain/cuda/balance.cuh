// What a router's balance losses are made of, and backward from weights to logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "route.hpp"
#include "router_tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// A row's sequence, and the first row of that.
__device__ inline int sequence_of(sequence_starts const& starts, std::int64_t row) {
  if (!starts.rows) return 0;
  int low = 0, high = starts.count;  // the last one that begins at or before the row
  while (high - low > 1) {
    int const middle = (low + high) / 2;
    (starts.rows[middle] <= row ? low : high) = middle;
  }
  return low;
}
__device__ inline std::int64_t sequence_begin(sequence_starts const& starts, std::int64_t row) {
  return starts.rows ? starts.rows[sequence_of(starts, row)] : 0;
}

/// The sum of the weights that each expert has, in the order of its rows: sums (R) of a block.
__device__ inline void sum_weights(row_map const& rows, double* sums) {
  for (int e = threadIdx.x / 32; e < rows.experts; e += blockDim.x / 32) {
    double sum = 0;
    for (int i = threadIdx.x % 32; i < rows.counts[e]; i += 32)
      sum += rows.row_weight[rows.offsets[e] + i];
    sum = vector::warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[e] = sum;
  }
  __syncthreads();
}
/// Mean and variance of n numbers, as every thread computes them.
struct spread {
  int n;
  double mean = 0, variance = 0;
  template <class V>
  __device__ spread(V const* x, int n) : n(n) {
    for (int i = 0; i < n; ++i) mean += double(x[i]) / n;
    for (int i = 0; i < n; ++i) variance += (double(x[i]) - mean) * (double(x[i]) - mean) / n;
  }
  __device__ double squared_variation() const { return mean > 0 ? variance / (mean * mean) : 0; }
  /// coefficient * d squared_variation / dx.
  __device__ float backward(double coefficient, double x) const {
    if (!(mean > 0)) return 0;
    return static_cast<float>(coefficient * 2 / n *
                              ((x - mean) / (mean * mean) - squared_variation() / mean));
  }
};

/// importance = coefficient * d CV^2 / d an expert's sum of weights. One block.
template <class T>
__global__ __launch_bounds__(1024) void importance_kernel(row_map rows, double coefficient,
                                                          float* importance) {
  __shared__ double sums[1024];
  sum_weights(rows, sums);
  spread const all(sums, rows.experts);
  for (int e = threadIdx.x; e < rows.experts; e += blockDim.x)
    importance[e] = all.backward(coefficient, sums[e]);
}

/// counts[e] = the slots of tokens [begin, end) that chose e, dropped ones too. All threads call it.
__device__ inline void count_slots(std::int32_t const* experts, int k, std::int64_t begin,
                                   std::int64_t end, int R, int* counts) {
  for (int e = threadIdx.x; e < R; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  for (std::int64_t i = begin * k + threadIdx.x; i < end * k; i += blockDim.x)
    if (int const e = expert_of_slot(experts[i]); e >= 0) atomicAdd(counts + e, 1);
  __syncthreads();
}
/// sent[d] = the tokens of [begin, end) that have a slot on device d, of `size` experts.
__device__ inline void count_sent(std::int32_t const* experts, int k, std::int64_t begin,
                                  std::int64_t end, int devices, int size, int* sent) {
  for (int d = threadIdx.x; d < devices; d += blockDim.x) sent[d] = 0;
  __syncthreads();
  for (std::int64_t i = begin * k + threadIdx.x; i < end * k; i += blockDim.x) {
    int const slot = static_cast<int>(i % k), device = expert_of_slot(experts[i]) / size;
    bool first = experts[i] != no_expert;
    for (int n = 1; n <= slot && first; ++n) first = expert_in(experts[i - n]) / size != device;
    if (first) atomicAdd(sent + device, 1);
  }
  __syncthreads();
}

/// Choices of expert e in a window, with those of the step's earlier batches.
__device__ inline double choices(balance_terms const& loss, int counted, int e) {
  bool const earlier = loss.earlier && !loss.by_sequence;
  return counted + (earlier ? static_cast<double>(loss.earlier[e]) : 0.0);
}
/// What one of a window's choices is, over the mean of the experts': K of each token, but of a rule,
/// which may leave slots unused, those of the R counts. 0 where there is none. All threads call it;
/// `memory` holds 32 numbers.
__device__ inline double share_of_choice(routing_rules const& c, balance_terms const& loss,
                                         int const* counts, double tokens, double* memory) {
  if (loss.earlier && !loss.by_sequence) tokens += static_cast<double>(loss.earlier_tokens);
  double used = double(c.chosen) * tokens;
  if (c.rule) {
    used = 0;
    for (int e = threadIdx.x; e < c.routed; e += blockDim.x) used += choices(loss, counts[e], e);
    used = vector::block_sum(used, memory);
  }
  return used > 0 ? c.routed / used : 0;
}

/// The factors of one sequence a block: see plan/balance.hpp, whose formulas these are.
template <class T>
__global__ __launch_bounds__(1024) void factors_kernel(routing_rules c, balance_terms loss,
                                                       router_state s, row_map rows,
                                                       sequence_starts starts, float* factors) {
  __shared__ int counts[1024], sent[1024], best[1024], sequences;
  __shared__ double memory[32];
  int const R = c.routed, k = c.k, D = loss.devices, size = R / D;
  std::int64_t const T_all = rows.tokens;
  std::int64_t const begin = starts.rows ? starts.rows[blockIdx.x] : 0;
  std::int64_t const end = starts.rows ? starts.rows[blockIdx.x + 1] : T_all;
  if (begin == end) return;
  if (threadIdx.x == 0) sequences = starts.rows ? 0 : 1;
  __syncthreads();
  for (int i = threadIdx.x; starts.rows && i < starts.count; i += blockDim.x)
    if (starts.rows[i + 1] > starts.rows[i]) atomicAdd(&sequences, 1);

  std::int64_t const from = loss.by_sequence ? begin : 0, to = loss.by_sequence ? end : T_all;
  bool const by_rows = !loss.by_sequence && !c.drops;
  if (loss.windows() && !by_rows) count_slots(s.experts, k, from, to, R, counts);
  if (loss.windows() && by_rows)
    for (int e = threadIdx.x; e < R; e += blockDim.x) counts[e] = rows.counts[e];
  if (loss.communication > 0) count_sent(s.experts, k, from, to, D, size, sent);
  if (loss.sequence > 0) count_slots(s.best, c.chosen, begin, end, R, best);
  __syncthreads();

  double const window = static_cast<double>(to - from), own = static_cast<double>(end - begin);
  double const share = (loss.by_sequence ? 1.0 / sequences : 1.0) / window;
  double const each = loss.windows() ? share_of_choice(c, loss, counts, window, memory) : 0;
  auto const f = [&](int e) { return each * choices(loss, counts[e], e); };
  for (int e = threadIdx.x; e < R; e += blockDim.x) {
    double factor = 0;
    if (loss.windows()) {
      int const d = e / size;
      double mean = 0;
      for (int i = d * size; loss.device > 0 && i < (d + 1) * size; ++i) mean += f(i) / size;
      factor = share * (loss.expert * f(e) + loss.device * mean);
      if (loss.of_rule) factor += share * loss.of_rule[e];
      if (loss.communication > 0)
        factor += share * loss.communication * sent[d] * D / (loss.most_devices * window);
    }
    if (loss.sequence > 0)
      factor += loss.sequence * R / (c.chosen * own) * best[e] / (sequences * own);
    factors[begin * R + e] = static_cast<float>(factor);
  }
}

template <class T>
void route<T>::balance(routing_rules const& c, balance_terms const& loss, router_state const& state,
                       row_map const& rows, sequence_starts starts, balance_factors const& to,
                       CUstream_st* stream) {
  if (rows.tokens == 0) return;
  if (loss.reads_scores()) {
    factors_kernel<T>
        <<<unsigned(starts.count), 1024, 0, stream>>>(c, loss, state, rows, starts, to.factors);
    check_launch("route: balance");
  }
  if (loss.importance > 0) {
    importance_kernel<T><<<1, 1024, 0, stream>>>(rows, loss.importance, to.importance);
    check_launch("route: importance");
  }
}

// ---- one token's numbers, by a warp -------------------------------------------------------------

/// The sum of a token's numbers, by a warp.
__device__ inline float sum_of(float const* numbers, int count) {
  float sum = 0;
  for (int i = threadIdx.x % 32; i < count; i += 32) sum += numbers[i];
  return vector::warp_sum(sum);
}

__device__ inline float max_of_row(float const* x, int n) {
  float highest = -INFINITY;
  for (int i = threadIdx.x % 32; i < n; i += 32) highest = fmaxf(highest, x[i]);
  for (int step = 16; step > 0; step /= 2)
    highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, step));
  return highest;
}
__device__ inline float log_sum_exp(float const* logits, int R) {
  float const highest = max_of_row(logits, R);
  float sum = 0;
  for (int i = threadIdx.x % 32; i < R; i += 32) sum += expf(logits[i] - highest);
  return highest + logf(vector::warp_sum(sum));
}
/// What scores are divided by to add up to 1: softmax does already.
__device__ inline float score_sum(routing_rules const& c, float const* scores) {
  return c.score == score::softmax ? 1 : sum_of(scores, c.routed) + 1e-20f;
}

// ---- backward -----------------------------------------------------------------------------------

/// The numbers of one token in shared memory, as the warp that works on it has them.
struct token_numbers {
  float *scores, *ds;     // (R), (R): gradients of scores, then of logits
  float* dweights;        // (k)
  std::int32_t* experts;  // (k) of slots, dropped ones too; -1: none
};

/// Adds weights' gradients to those of scores, or, of the chosen logits alone, to those of logits.
__device__ inline void weigh_backward(routing_rules const& c, token_numbers const& t) {
  int const lane = threadIdx.x % 32;
  float total = 1, mean = 0;
  if (c.renormalise) {
    total = 0;
    for (int n = 0; n < c.k; ++n) total += t.experts[n] < 0 ? 0 : t.scores[t.experts[n]];
    if (c.round) total = rounded(total);
    total = fmaxf(total, c.floor) + c.epsilon;
    bool const constant = c.floor > 0 && total <= c.floor + c.epsilon;
    for (int n = 0; n < c.k && !constant; ++n)
      if (t.experts[n] >= 0) mean += t.dweights[n] * t.scores[t.experts[n]] / total;
  }
  for (int n = lane; n < c.k; n += 32)
    if (t.experts[n] >= 0) t.ds[t.experts[n]] += c.scale * (t.dweights[n] - mean) / total;
  __syncwarp();
}
__device__ inline void weigh_logits_backward(routing_rules const& c, float const* logits,
                                             token_numbers const& t) {
  float highest = -INFINITY, sum = 0, mean = 0;
  for (int n = 0; n < c.k; ++n)
    if (t.experts[n] >= 0) highest = fmaxf(highest, logits[t.experts[n]]);
  for (int n = 0; n < c.k; ++n) {
    if (t.experts[n] < 0) continue;
    float const part = expf(logits[t.experts[n]] - highest);
    sum += part, mean += part * t.dweights[n];
  }
  for (int n = threadIdx.x % 32; n < c.k; n += 32)
    if (t.experts[n] >= 0)
      t.ds[t.experts[n]] +=
          c.scale / sum * (t.dweights[n] - mean / sum) * expf(logits[t.experts[n]] - highest);
  __syncwarp();
}

/// Gradients of scores become gradients of logits.
__device__ inline void score_backward(routing_rules const& c, float const* s, float* ds) {
  int const lane = threadIdx.x % 32;
  float mean = 0;
  if (c.score == score::softmax) {
    for (int i = lane; i < c.routed; i += 32) mean += s[i] * ds[i];
    mean = vector::warp_sum(mean);
  }
  for (int i = lane; i < c.routed; i += 32) {
    if (c.score == score::softmax)
      ds[i] = s[i] * (ds[i] - mean);
    else if (c.score == score::sigmoid)
      ds[i] *= s[i] * (1 - s[i]);
    else
      ds[i] *= s[i] == 0 ? 0.0f : -expm1f(-s[i] * s[i]) / (2 * s[i]);
  }
  __syncwarp();
}

template <class T>
__global__ __launch_bounds__(256) void router_backward_kernel(routing_rules c, balance_terms loss,
                                                              weight_dots dots, router_state s,
                                                              row_map rows, sequence_starts starts,
                                                              balance_factors from,
                                                              float* dlogits) {
  extern __shared__ float numbers[];
  int const R = c.routed, k = c.k, lane = threadIdx.x % 32;
  std::int64_t const t = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (t >= rows.tokens) return;
  token_numbers n;
  n.scores = numbers + threadIdx.x / 32 * (2 * R + 2 * k);
  n.ds = n.scores + R;
  n.dweights = n.ds + R;
  n.experts = reinterpret_cast<std::int32_t*>(n.dweights + k);
  float const* const logits = s.logits + t * R;

  for (int i = lane; i < R; i += 32) n.scores[i] = s.scores[t * R + i], n.ds[i] = 0;
  for (int slot = lane; slot < k; slot += 32) {
    std::int64_t const row = rows.slot_row[t * k + slot];
    std::int32_t const e = s.experts[t * k + slot];
    float sum = 0;
    for (int p = 0; row >= 0 && p < dots.parts; ++p) sum += dots.dot[row * dots.parts + p];
    if (loss.importance > 0 && is_kept(e)) sum += from.importance[e];
    n.dweights[slot] = sum;
    n.experts[slot] = expert_of_slot(e);
  }
  __syncwarp();
  if (!c.of_chosen) weigh_backward(c, n);
  if (loss.reads_scores()) {
    float const* const factor = from.factors + sequence_begin(starts, t) * R;
    float const total = score_sum(c, n.scores);
    float mean = 0;
    if (c.score != score::softmax) {
      for (int i = lane; i < R; i += 32) mean += factor[i] * n.scores[i] / total;
      mean = vector::warp_sum(mean);
    }
    for (int i = lane; i < R; i += 32) n.ds[i] += (factor[i] - mean) / total;
    __syncwarp();
  }
  score_backward(c, n.scores, n.ds);
  if (c.of_chosen) weigh_logits_backward(c, logits, n);
  float log_sum = 0;
  if (loss.z > 0) log_sum = log_sum_exp(logits, R);
  for (int i = lane; i < R; i += 32) {
    float d = n.ds[i];
    if (loss.z > 0)
      d += static_cast<float>(2 * loss.z / rows.tokens) * log_sum * expf(logits[i] - log_sum);
    dlogits[t * R + i] = d;
  }
}

template <class T>
void route<T>::backward(routing_rules const& c, balance_terms const& loss, weight_dots dots,
                        router_state const& state, row_map const& rows, sequence_starts starts,
                        balance_factors const& factors, float* dlogits, CUstream_st* stream) {
  if (c.uniform || rows.tokens == 0) return;
  int const words = 2 * (c.routed + c.k);
  int const warps = words * 8 <= 12 * 1024 ? 8 : 2;
  router_backward_kernel<T><<<unsigned(ceil_div(rows.tokens, warps)), warps * 32,
                              sizeof(float) * std::size_t(warps * words), stream>>>(
      c, loss, dots, state, rows, starts, factors, dlogits);
  check_launch("route: backward");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
