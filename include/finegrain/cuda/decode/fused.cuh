// decode_products::fused_down: the down products of few tokens, weighed and added.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// Steps of 64 columns that a warp takes at a time: as codes they are half as much, or less, and it
/// takes as long to find them.
template <class W>
inline constexpr int steps_of = W::scale == scales::none ? 1 : 2;

/// y of up to 8 tokens: the columns of all of the batch's experts are one long row of steps, which
/// the warps take in turn; a step's products are weighed as they are added.
template <class T, class W, int Warps, int Depth>
__global__ void __launch_bounds__(32 * Warps, 1)
    fused_down_kernel(__grid_constant__ expert_products<T> const p,
                      __grid_constant__ family_weights<W> const routed_weights,
                      __grid_constant__ family_weights<W> const shared_weights, T const* residual,
                      T* y) {
  extern __shared__ uint4 memory[];
  constexpr int warps = Warps, threads = 32 * Warps;
  constexpr int steps = steps_of<W>, wide = steps * step;
  auto* const parts =
      reinterpret_cast<float4*>(memory + warps * ring<W, steps, Depth>::warp_bytes / 16);
  auto* const table_row = reinterpret_cast<int*>(parts + 2 * warps * 32);  // (segments, 8)
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int const column = lane_column<W>();
  int const D = p.hidden, stride = static_cast<int>(gridDim.x), T_ = p.rows.tokens;
  bool const shared = p.shared.width > 0;
  int const segments = __ldcg(p.rows.tile_count) + shared;
  auto* const table_weight = reinterpret_cast<float*>(table_row + 8 * segments);
  auto* const table_expert = reinterpret_cast<int*>(table_weight + 8 * segments);
  auto const is_shared = [&](int segment) { return shared && segment == 0; };
  auto const weights_for = [&](int s) -> family_weights<W> const& {
    return is_shared(s) ? shared_weights : routed_weights;
  };
  auto const columns_of = [&](int s) { return is_shared(s) ? p.shared.width : p.routed.width; };

  // (segment, token): its row of hidden and its weight; ~ some row of the segment where the token
  // is not there. A token is in an expert once.
  for (int i = thread; i < 8 * segments; i += threads) {
    int const segment = i / 8;
    if (is_shared(segment)) {
      table_expert[0] = 0;
      table_row[i] = i < T_ ? i : ~0;
      continue;
    }
    auto const tile = __ldcg(reinterpret_cast<int4 const*>(p.rows.tiles) + segment - shared);
    table_expert[segment] = tile.x;
    int found = ~tile.y;
    for (int row = tile.y; row < tile.y + tile.z; ++row)
      if (__ldcg(p.rows.row_token + row) == i % 8) found = row;
    table_row[i] = found;
    if (found >= 0) table_weight[i] = __ldcg(p.rows.row_weight + found);
  }
  __syncthreads();

  struct place {
    int unit, segment, k;
  };
  // Goes on behind a segment's end.
  auto const settle = [&](place& at) {
    while (at.segment < segments) {
      int const padded = ceil_div(columns_of(at.segment), wide) * wide;
      if (at.k < padded) return;
      at.k -= padded;
      ++at.segment;
    }
  };
  int const units = (D + 15) / 16;
  place ahead{static_cast<int>(blockIdx.x), 0, warp * wide};
  settle(ahead);
  if (ahead.segment >= segments) ahead.unit = units;  // fewer steps than warps
  ring<W, steps, Depth> weights(memory);
  auto const issue = [&] {
    if (ahead.unit < units) {
      auto const& f = is_shared(ahead.segment) ? p.shared : p.routed;
      lane_weights<W, false> const from(weights_for(ahead.segment), table_expert[ahead.segment],
                                        16 * ahead.unit, D, f.width);
#pragma unroll
      for (int i = 0; i < steps; ++i) {
        int const left = f.width - ahead.k - i * step, at_k = from.before(ahead.k + i * step);
        if (left >= step)
          weights.issue(i, from.low + at_k, from.high + at_k);
        else if (i == 0 || left > 0)
          weights.issue(i, from.low + at_k, from.high + at_k, left);
      }
      ahead.k += warps * wide;
      settle(ahead);
      if (ahead.segment >= segments) {
        ahead = {ahead.unit + stride, 0, warp * wide};
        settle(ahead);
      }
    }
    weights.next();
  };
  for (int i = 0; i < Depth; ++i) issue();
  wait_for_launch_ahead();
  if (shared) {  // a weight that the launch ahead may have written
    if (thread < T_) table_weight[thread] = p.shared.weight ? p.shared.weight[thread] : 1.0f;
    __syncthreads();
  }

  int turn = 0;
  for (int unit = static_cast<int>(blockIdx.x); unit < units; unit += stride, turn ^= 1) {
    float total[4] = {};
    uint4 b[steps][2];
    float scale[2][2];
    int left = 0;  // columns from this turn's on
    auto const load = [&](place at) {
      if (at.segment >= segments) return;
      auto const& f = is_shared(at.segment) ? p.shared : p.routed;
      int const row = table_row[8 * at.segment + lane / 4];
      T const* const from = f.hidden + std::int64_t{row < 0 ? ~row : row} * f.width + at.k + column;
      left = f.width - at.k;
#pragma unroll
      for (int i = 0; i < steps; ++i)
        load_row<W>(b[i], reinterpret_cast<uint4 const*>(from + i * step), left - i * step);
      if constexpr (W::scale == scales::square || W::scale == scales::row) {
        auto const& w = weights_for(at.segment);
        lane_weights<W, false>(w, table_expert[at.segment], 16 * unit, D, f.width)
            .scales_of(w, at.k, scale[0]);
      }
    };
    place at{unit, 0, warp * wide};
    settle(at);
    load(at);
    while (at.segment < segments) {
      weights.wait();
      float sum[4] = {};
#pragma unroll
      for (int i = 0; i < steps; ++i) {
        if (i > 0 && left <= i * step) break;
        std::uint32_t a[4][4];
        weights.take(a, i);
        if constexpr (W::scale == scales::inside) weights.take_scales(scale, i);
        multiply_scaled<T, W>(sum, a, b[i], scale);
      }
      int const* const rows = table_row + 8 * at.segment + lane % 4 * 2;
      float const* const weight = table_weight + 8 * at.segment + lane % 4 * 2;
      if constexpr (W::scale == scales::row) {
        for (int i = 0; i < 4; ++i) sum[i] *= scale[0][i / 2];
      }
      at.k += warps * wide;
      settle(at);
      load(at);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (rows[i % 2] >= 0) total[i] += weight[i % 2] * sum[i];
      issue();
    }
    float4* const set = parts + turn * (warps * 32) + lane;
    set[warp * 32] = {total[0], total[1], total[2], total[3]};
    __syncthreads();
    if (warp >= 4) continue;  // warp i adds what lanes have at i
    float sum = 0;
#pragma unroll
    for (int i = 0; i < warps; ++i) sum += reinterpret_cast<float const*>(set + i * 32)[warp];
    int const token = lane % 4 * 2 + warp % 2, d = 16 * unit + lane / 4 + warp / 2 * 8;
    if (token >= T_ || d >= D) continue;
    std::int64_t const to = std::int64_t{token} * D + d;
    if (residual) sum += static_cast<float>(residual[to]);
    y[to] = T(sum);
  }
}

template <class T, class W, int Warps, int Depth>
void fused(expert_products<T> const& p, family_weights<W> const& routed,
           family_weights<W> const& shared, T const* residual, T* y, CUstream_st* stream,
           char const* name) {
  int const segments = static_cast<int>(p.rows.max_tiles()) + 1;
  int const bytes = Warps * (ring<W, steps_of<W>, Depth>::warp_bytes + 2 * 512) + segments * 17 * 4;
  launch(fused_down_kernel<T, W, Warps, Depth>, 32 * Warps, (p.hidden + 15) / 16, bytes, machine(),
         stream, name, p, routed, shared, residual, y);
}
template <class T, class W>
void fused(expert_products<T> const& p, family_weights<W> const& routed,
           family_weights<W> const& shared, T const* residual, T* y, CUstream_st* stream,
           char const* name) {
  if (p.rows.tokens == 0) return;
  if (p.rows.tokens > fused_tokens)
    throw cuda_error("%s: up to %d tokens, not %d", name, fused_tokens, p.rows.tokens);
  fused<T, W, 16, W::pieces == 1 ? 3 : 2>(p, routed, shared, residual, y, stream, name);
}

}  // namespace decode

template <class T>
void decode_products<T>::fused_down(expert_products<T> const& p, T const* residual, T* y,
                                    CUstream_st* stream) {
  decode::fused(p, decode::weights_of(p.routed), decode::weights_of(p.shared), residual, y, stream,
                "decode_products::fused_down");
}
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
