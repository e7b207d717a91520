// backward_weights: the products of backward that are gradients of weights, down_weights and
// up_weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"
#include "deal.hpp"
#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::backward {

/// (M, K) (K, N) of each expert: K its rows, M the width F, N = D, gathered. down_weights, whose
/// gradient is (D, F), writes it transposed: D is more often a multiple of 256 than F is.
template <class T>
struct weights_family {
  CUtensorMap a;                // (rows, parts, F): hidden, or the two parts of dz
  CUtensorMap out[2];           // of a part: (experts, F, D), or (experts, D, F)
  int row_tiles, column_tiles;  // of a part of an expert
};
template <class T>
struct weights_arguments {
  weights_family<T> shared, routed;
  row_map rows;
  T const* tokens;   // dy or x: (T, D)
  int hidden;        // D
  int shared_tiles;  // 0: there is no such expert
  int parts;
  gradients mode;
};

struct weights_shape {
  static constexpr int stages = 4, staged = 2;  // panels of a warpgroup
  static constexpr int producers = 128, threads = consumers + producers;
  using buffers = ring_shape<stages>;
  static constexpr int shared_bytes =
      buffers::size + 2 * staged * panel_64 + buffers::barriers + 16;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

using weights_ring = ring<weights_shape::stages>;

template <class T>
struct weights_tile {
  weights_family<T> const* family;
  bool routed;
  int expert, part, row, column;  // of the product, in numbers
  int first, steps;               // rows of the expert

  __device__ weights_tile(weights_arguments<T> const& g, int tile)
      : family(tile < g.shared_tiles ? &g.shared : &g.routed), routed(tile >= g.shared_tiles) {
    int const of_part = family->row_tiles * family->column_tiles;
    int i = routed ? tile - g.shared_tiles : tile;
    expert = i / (of_part * g.parts);
    i -= expert * of_part * g.parts;
    part = i / of_part;
    i -= part * of_part;
    row = i / family->column_tiles * 128;
    column = i % family->column_tiles * 256;
    first = routed ? g.rows.offsets[expert] : 0;
    steps = ((routed ? g.rows.counts[expert] : g.rows.tokens) + 63) / 64;
  }
};

/// The steps of a block's tiles, one after the other; past the last, `tile` is deal.total or more.
template <class T>
struct weights_steps {
  weights_arguments<T> const& g;
  tile_deal const& deal;
  int tile, step = 0;
  weights_tile<T> t;

  __device__ weights_steps(weights_arguments<T> const& g, tile_deal const& deal)
      : g(g), deal(deal), tile(deal.first()), t(g, tile < deal.total ? tile : 0) {
    skip_finished();
  }
  __device__ void advance() {
    ++step;
    skip_finished();
  }
  __device__ bool more() const { return tile < deal.total; }

 private:
  __device__ void skip_finished() {
    while (more() && step >= t.steps) {
      tile = deal.next(tile);
      step = 0;
      if (more()) t = weights_tile<T>(g, tile);
    }
  }
};

template <class T>
__device__ void produce_weights(weights_arguments<T> const& g, tile_deal const& deal,
                                weights_ring r) {
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  weights_steps<T> s(g, deal);
  // Warp w fetches rows 16 w .. 16 w + 15 of B, a lane 16 bytes of each; lanes hold their tokens.
  auto const token_of_row = [&] {
    if (!s.more()) return -1;
    int const row = s.t.first + s.step * 64 + warp * 16 + lane % 16;
    return s.t.routed ? g.rows.row_token[row] : row < g.rows.tokens ? row : -1;
  };
  int next_token = token_of_row();
  while (s.more()) {
    weights_family<T> const& family = *s.t.family;
    int const row = s.t.first + s.step * 64, m0 = s.t.row, part = s.t.part, token = next_token;
    int const d = s.t.column + lane * 8;
    s.advance();
    next_token = token_of_row();  // on their way meanwhile
    r.wait_emptied();
    if (threadIdx.x == consumers) {
      arrive_and_expect(r.filled(), r.a_bytes);
      for (int m = 0; m < 2; ++m)
        load(r.a() + m * panel_64, &family.a, row, part, m0 + m * 64, r.filled());
    }
    __syncwarp();
    T const* const from = g.tokens + d;
    std::uint32_t const to = r.b() + lane / 8 * panel_64 + warp * 16 * 128;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      int const of = __shfl_sync(~0u, token, j);
      gather_16(to + swizzled(j, lane % 8), from + std::int64_t{of} * g.hidden,
                of >= 0 && d < g.hidden);
    }
    gather_arrive(r.filled());
    r.advance();
  }
}

template <class T, bool transposed>
__device__ void consume_weights(weights_arguments<T> const& g, tile_deal const& deal,
                                weights_ring r, std::uint32_t staging, std::uint32_t fetched) {
  int const w = threadIdx.x / 128;
  bool const add = g.mode == gradients::accumulate;
  sums_store<transposed> out{staging, fetched};
  float sums[128];
  for (int i = deal.first(); i < deal.total; i = deal.next(i)) {
    weights_tile<T> const t(g, i);
    if (add && t.steps == 0) continue;
    int const columns = g.hidden - t.column;
    out.at(&t.family->out[t.part], t.expert, t.row + w * 64, t.column);
    if (add) out.fetch(0);
    r.multiply<1, true>(sums, w, t.steps, columns);
    out.template put<0>(sums, add);
    if (columns <= 128) continue;
    if (add) out.fetch(1);
    out.template put<1>(sums, add);
  }
  if (out.leads()) store_wait_read<0>();
}

/// How many of the routed tiles together cost `work` steps, about, `per_expert` tiles each.
template <class T>
__device__ int tiles_of_work(weights_arguments<T> const& g, int per_expert, std::int64_t work) {
  int constexpr overhead = 2;  // of a tile, in steps
  auto const before = [&](int e) {
    return std::int64_t{per_expert} * (g.rows.offsets[e] / 64 + overhead * e);
  };
  int expert = 0;
  for (int e0 = 0; e0 < g.rows.experts; e0 += weights_shape::threads) {
    int const e = e0 + static_cast<int>(threadIdx.x);
    expert += __syncthreads_count(e < g.rows.experts && before(e + 1) <= work);
  }
  if (expert == g.rows.experts) return expert * per_expert;
  std::int64_t const start = before(expert), size = before(expert + 1) - start;
  return expert * per_expert + static_cast<int>((work - start) * per_expert / size);
}

#endif

template <class T, bool transposed>
__global__ __launch_bounds__(weights_shape::threads, 1) void backward_weights(
    __grid_constant__ weights_arguments<T> const g) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using shape = weights_shape;
  std::uint32_t const data = shared_address(panels());
  std::uint32_t const staging = data + shape::buffers::size;
  std::uint32_t const barriers = staging + 2 * shape::staged * panel_64;
  weights_ring r(data, barriers);
  std::uint32_t const fetched = barriers + shape::buffers::barriers;
  if (threadIdx.x == 0) {
    r.init(1 + shape::producers);
    barrier_init(fetched, 1);
    barrier_init(fetched + 8, 1);
    barrier_init_done();
  }
  __syncthreads();
  int const blocks = static_cast<int>(gridDim.x);
  int const idle = blocks - g.shared_tiles % blocks;  // in the last round of shared tiles
  int const per_expert = g.routed.row_tiles * g.routed.column_tiles * g.parts;
  int head = 0;
  if (per_expert > 0 && idle < blocks)
    head = tiles_of_work(g, per_expert, std::int64_t{idle} * (g.rows.tokens / 64 + 2));
  tile_deal const deal(blocks, static_cast<int>(blockIdx.x), g.shared_tiles,
                       g.shared_tiles + g.rows.experts * per_expert, head);
  if (threadIdx.x < consumers) {
    int const w = threadIdx.x / 128;
    consume_weights<T, transposed>(g, deal, r, staging + w * shape::staged * panel_64,
                                   fetched + 8 * w);
  } else {
    produce_weights(g, deal, r);
  }
#endif
}

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
