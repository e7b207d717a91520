// What a router did with a batch: sums over its tokens, in an order that depends on shapes alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "balance.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Sums over a block's tokens, 8 at a time: (R) of normalised scores, then balance_loss, entropy,
/// devices; of means over all tokens.
template <class T>
__global__ __launch_bounds__(256) void report_kernel(routing_rules c, balance_terms loss,
                                                     router_state s, int tokens, int chunk,
                                                     sequence_starts starts, float const* factors,
                                                     double* partials) {
  __shared__ float totals[8];
  __shared__ double sums[8][3];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, R = c.routed, k = c.k;
  std::int64_t const begin = std::int64_t{blockIdx.x} * chunk;
  std::int64_t const end = min(std::int64_t{tokens}, begin + chunk);
  double const each = 1.0 / max(tokens, 1);
  double mean[4] = {}, balance = 0, entropy = 0, devices = 0;
  for (std::int64_t t0 = begin; t0 < end; t0 += 8) {
    std::int64_t const t = t0 + warp;
    if (t < end) {
      float const *const p = s.scores + t * R, *const logits = s.logits + t * R;
      float const total = score_sum(c, p);
      bool const softmax = c.score == score::softmax && !c.round;
      float const log_sum = softmax || loss.z > 0 ? log_sum_exp(logits, R) : 0;
      float const all = c.score == score::softmax && c.round ? sum_of(p, R) : total;
      double part = 0, linear = 0;
      for (int i = lane; i < R; i += 32) {
        if (p[i] > 0)
          part += softmax ? double(p[i]) * logits[i] : double(p[i] / all) * log(double(p[i] / all));
        if (loss.reads_scores())
          linear += double(p[i]) * factors[sequence_begin(starts, t) * R + i];
      }
      entropy += (softmax ? log_sum : 0.0) - vector::warp_sum(part);
      balance += vector::warp_sum(linear) / total + loss.z * each * log_sum * log_sum;
      int distinct = 0;
      for (int slot = lane; slot < k; slot += 32) {
        std::int32_t const *const mine = s.experts + t * k, e = mine[slot], size = R / loss.devices;
        bool first = is_kept(e);
        for (int n = 0; n < slot && first; ++n)
          first = !is_kept(mine[n]) || mine[n] / size != e / size;
        distinct += first;
      }
      devices += __reduce_add_sync(all_lanes, distinct);
      if (lane == 0) totals[warp] = total;
    }
    __syncthreads();
    int const count = static_cast<int>(min(std::int64_t{8}, end - t0));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const e = i * 256 + threadIdx.x;
      for (int n = 0; e < R && n < count; ++n)
        mean[i] += double(s.scores[(t0 + n) * R + e]) * (each / double(totals[n]));
    }
    __syncthreads();
  }
  double* const to = partials + std::int64_t{blockIdx.x} * (R + 3);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (int const e = i * 256 + threadIdx.x; e < R) to[e] = mean[i];
  if (lane == 0) sums[warp][0] = balance, sums[warp][1] = entropy, sums[warp][2] = devices;
  __syncthreads();
  if (threadIdx.x < 3) {
    double sum = 0;
    for (int w = 0; w < 8; ++w) sum += sums[w][threadIdx.x];
    to[R + threadIdx.x] = sum;
  }
}

/// The blocks' sums, in order. One block.
template <class T>
__global__ __launch_bounds__(1024) void report_sums_kernel(routing_rules c, balance_terms loss,
                                                           summed<T> bias,
                                                           std::int32_t const* experts,
                                                           row_map rows, double const* partials,
                                                           router_report to) {
  __shared__ double weights[1024];
  __shared__ int chosen[1024];
  int const R = c.routed;
  if (c.drops) count_slots(experts, c.k, 0, rows.tokens, R, chosen);
  if (loss.importance > 0) sum_weights(rows, weights);
  for (int e = threadIdx.x; e < R + 3; e += blockDim.x) {
    double sum = 0;
#pragma unroll 8
    for (int b = 0; b < router_report::blocks; ++b) sum += partials[std::int64_t{b} * (R + 3) + e];
    double const each = 1.0 / max(rows.tokens, 1);
    if (e < R) {
      to.mean_score[e] = sum;
      to.load[e] = c.drops ? chosen[e] : rows.counts[e];
      to.dropped[e] = to.load[e] - rows.counts[e];
      to.bias[e] = c.bias ? double(bias[e]) : 0.0;
      to.quantile[e] = 0;
      continue;
    }
    if (e == R && loss.importance > 0)
      sum += loss.importance * spread(weights, R).squared_variation();
    if (e == R && loss.smooth) sum += loss.load * spread(loss.smooth, R).squared_variation();
    if (e == R + 1) sum *= R > 1 ? each / log(double(R)) : 0;
    if (e == R + 2) sum *= each;
    to.totals[e - R] = sum;
  }
}

template <class T>
void route<T>::report(routing_rules const& c, balance_terms const& loss, summed<T> bias,
                      router_state const& state, row_map const& rows, sequence_starts starts,
                      balance_factors const& factors, router_report const& report, double* partials,
                      CUstream_st* stream) {
  int const chunk = ceil_div(rows.tokens, router_report::blocks);
  report_kernel<T><<<router_report::blocks, 256, 0, stream>>>(c, loss, state, rows.tokens, chunk,
                                                              starts, factors.factors, partials);
  check_launch("route: report");
  report_sums_kernel<T>
      <<<1, 1024, 0, stream>>>(c, loss, bias, state.experts, rows, partials, report);
  check_launch("route: report, sums");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
