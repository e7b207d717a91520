// The portable products whose results are weights' gradients: sums over an expert's rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../architectures.cuh"
#include "../products.hpp"
#include "../tile/block.cuh"
#include "../tile/block_place.hpp"
#include "../tile/launch.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// ddown (D, F) = G^T hidden, or where Up dgate, dup (2 F, D) = dz^T x, over an expert's rows.
template <bool Up, class S, class T>
__device__ void multiply_block(expert_products<T> const& p) {
  extern __shared__ __align__(128) unsigned char memory[];
  int const D = p.hidden, tokens = p.rows.tokens;
  auto const down_tiles = [&](int F) { return ceil_div(Up ? 2 * F : D, S::m); };
  auto const across_tiles = [&](int F) { return ceil_div(Up ? D : F, S::n); };
  int const shared_blocks = down_tiles(p.shared.width) * across_tiles(p.shared.width);
  bool const shared = static_cast<int>(blockIdx.x) < shared_blocks;
  int const in_family = static_cast<int>(blockIdx.x) - (shared ? 0 : shared_blocks);
  auto const f = shared ? p.shared : p.routed;
  int const F = f.width, across = across_tiles(F), tiles = across * down_tiles(F);
  int const expert = in_family / tiles, tile = in_family % tiles;
  int const M = Up ? 2 * F : D, N = Up ? D : F;
  int const m0 = tile / across * S::m, n0 = tile % across * S::n;
  int const K = shared ? tokens : tokens > 0 ? p.rows.counts[expert] : 0;
  int const first = shared || K == 0 ? 0 : p.rows.offsets[expert];
  if (K == 0 && p.mode == gradients::accumulate) return;

  auto const at = [&](int r, int c) -> T* {
    int const m = m0 + r, n = n0 + c;
    if (m >= M || n >= N) return nullptr;
    bool const second = Up && m >= F;
    return (!Up      ? f.ddown
            : second ? f.dup
                     : f.dgate) +
           static_cast<std::int64_t>(expert) * F * D +
           static_cast<std::int64_t>(second ? m - F : m) * N + n;
  };
  bool const add = p.mode == gradients::accumulate;
  if (add)  // the gradient comes to L2 while the sums are made
    for (int i = threadIdx.x; i < S::m * S::n / 64; i += S::threads)
      if (T const* const line = at(i / (S::n / 64), i % (S::n / 64) * 64)) prefetch(line);

  using a_writer = tile_writer<operand_tile<T, S::m, deep<T, S>, false>, S::threads>;
  using b_writer = tile_writer<operand_tile<T, S::n, deep<T, S>, false>, S::threads>;
  // Tokens' rows and experts' rows: numbers of tokens are read one step ahead.
  using token_writer = std::conditional_t<Up, b_writer, a_writer>;
  using row_writer = std::conditional_t<Up, a_writer, b_writer>;
  int const token_column = (Up ? n0 : m0) + token_writer::column();
  int const row_column = (Up ? m0 : n0) + row_writer::column(), row_width = Up ? M : N;
  T const* const of_tokens = (Up ? p.x : p.dy) + token_column;
  T const* const of_rows =
      (Up ? f.dz : f.hidden) + static_cast<std::int64_t>(first) * row_width + row_column;
  int token[token_writer::passes];
  auto const find = [&](int step, int pass) {
    int const k = step * deep<T, S> + token_writer::row(pass);
    token[pass] = k >= K || token_column >= D ? -1 : shared ? k : p.rows.row_token[first + k];
  };
  for (int pass = 0; pass < token_writer::passes; ++pass) find(0, pass);
  auto const from_tokens = [&](int step, int pass) {
    int const t = token[pass];
    find(step + 1, pass);
    return row_source(of_tokens, t, D, t >= 0);
  };
  auto const from_rows = [&](int step, int pass) {
    int const k = step * deep<T, S> + row_writer::row(pass);
    return row_source(of_rows, k, row_width, k < K && row_column < row_width);
  };
  block_sums<S> sums;
  auto const go = [&](auto const& from_a, auto const& from_b) {
    multiply<T, S, false, false>(sums, shared_address(memory), ceil_div(K, deep<T, S>), from_a,
                                 from_b);
  };
  if constexpr (Up)
    go(from_rows, from_tokens);
  else
    go(from_tokens, from_rows);

  auto const fetch = [&](int r, int c) -> eight<T> {
    T* const from = at(r, c);
    return add && from ? load_eight(from) : eight<T>{};
  };
  auto const finish = [&](int r, int c, float const(&g)[1][8], eight<T> const& before) {
    T* const to = at(r, c);
    if (!to) return;
    float sum[8];
    unpack<T>(sum, before);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += g[0][i];
    store_eight(to, pack<T>(sum));
  };
  each_row(sums, reinterpret_cast<float*>(memory), fetch, finish);
}

template <bool Up, class S, class T>
__global__ void __launch_bounds__(S::threads)
    multiply_weights([[maybe_unused]] __grid_constant__ expert_products<T> const p) {
  if constexpr (!replaced_here<T>) multiply_block<Up, S>(p);
}

template <bool Up, class S, class T>
void launch_weights(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  check_code<&multiply_weights<Up, S, T>>(name);
  auto const tiles = [&](int F) {
    return std::int64_t{ceil_div(Up ? 2 * F : p.hidden, S::m)} * ceil_div(Up ? p.hidden : F, S::n);
  };
  launch_blocks<S>(multiply_weights<Up, S, T>,
                   tiles(p.shared.width) + p.rows.experts * tiles(p.routed.width), p, stream, name);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
