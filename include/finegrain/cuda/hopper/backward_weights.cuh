// backward_weights: the products of backward that are gradients of weights, down_weights and
// up_weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"
#include "deal.hpp"
#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::backward {

/// (M, K) (K, N) of each expert: K its rows; M = D, gathered; N the columns of hidden or of dz. A
/// tile is 128 x 256, a unit of work two of them, below one another: each CTA of a cluster gathers
/// for one, and half of the columns for both.
template <class T>
struct weights_family {
  CUtensorMap b;       // (rows, parts, columns): hidden, or the two parts of dz
  CUtensorMap out[2];  // ddown (experts, D, F); or, transposed, dgate and dup (experts, F, D)
  int width;           // F
  int parts, columns;  // dz's two parts are one of 2 F columns, where F is a multiple of 64
  int column_tiles;    // of a part
};
template <class T>
struct weights_arguments {
  weights_family<T> shared, routed;
  row_map rows;
  T const* tokens;   // dy or x: (T, D)
  int hidden;        // D
  int pairs;         // of tiles of D
  int shared_units;  // 0: there is no such expert
  gradients mode;
};

struct weights_shape {
  static constexpr int stages = 4, staged = 2;  // panels of a warpgroup
  static constexpr int producers = 128, threads = consumers + producers;
  using buffers = ring_shape<stages>;
  static constexpr int shared_bytes =
      buffers::size + 2 * staged * panel_64 + buffers::barriers + 2 * staged * 8;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

using weights_ring = ring<weights_shape::stages>;

template <class T>
struct weights_tile {
  weights_family<T> const* family;
  bool routed;
  int expert, part, row, column;  // of the product, in numbers
  int first, rows;                // of the expert

  __device__ weights_tile(weights_arguments<T> const& g, int unit)
      : family(unit < g.shared_units ? &g.shared : &g.routed), routed(unit >= g.shared_units) {
    int const of_part = g.pairs * family->column_tiles, of_expert = of_part * family->parts;
    int i = routed ? unit - g.shared_units : unit;
    expert = i / of_expert;
    i -= expert * of_expert;
    part = i / of_part;
    i -= part * of_part;
    column = i / g.pairs * 256;
    row = (i % g.pairs * 2 + cluster_rank()) * 128;
    first = routed ? g.rows.offsets[expert] : 0;
    rows = routed ? g.rows.counts[expert] : g.rows.tokens;
  }
  __device__ int steps() const { return (rows + 63) / 64; }
};

/// The steps of a cluster's tiles, one after the other. What a tile is was read a tile before.
template <class T>
struct weights_steps {
  weights_arguments<T> const& g;
  tile_deal const& deal;
  int unit, next_unit, step = 0;
  weights_tile<T> t, next;

  __device__ weights_steps(weights_arguments<T> const& g, tile_deal const& deal)
      : g(g),
        deal(deal),
        unit(deal.first()),
        next_unit(deal.next(unit)),
        t(g, unit < deal.total ? unit : 0),
        next(g, next_unit < deal.total ? next_unit : 0) {
    skip_finished();
  }
  __device__ void advance() {
    ++step;
    skip_finished();
  }
  __device__ bool more() const { return unit < deal.total; }

 private:
  __device__ void skip_finished() {
    while (more() && step >= t.steps()) {
      unit = next_unit, t = next, step = 0;
      next_unit = deal.next(unit);
      if (next_unit < deal.total) next = weights_tile<T>(g, next_unit);
    }
  }
};

/// A thread fetches 16 bytes of 4 neighbouring rows of A, in both of its panels. It holds their tokens
/// for as many steps as there are stages: these are read when a stage was last filled.
template <class T>
__device__ void produce_weights(weights_arguments<T> const& g, tile_deal const& deal,
                                weights_ring r) {
  int constexpr stages = weights_shape::stages;
  int const rank = cluster_rank(), chunk = threadIdx.x % 8, row = threadIdx.x % 128 / 8 * 4;
  weights_steps<T> s(g, deal), ahead(g, deal);
  int4 tokens[stages];
  auto const look_up = [&](int4& to) {
    if (!ahead.more()) return;
    int const from = ahead.t.first + ahead.step * 64 + row, end = g.rows.tokens;
    if (ahead.t.routed)
      to = __ldg(reinterpret_cast<int4 const*>(g.rows.row_token + from));
    else
      to = {from < end ? from : -1, from + 1 < end ? from + 1 : -1, from + 2 < end ? from + 2 : -1,
            from + 3 < end ? from + 3 : -1};
    ahead.advance();
  };
#pragma unroll
  for (int4& some : tokens) look_up(some);
  std::uint32_t const place = row * 128;
  while (s.more()) {
#pragma unroll
    for (int stage = 0; stage < stages; ++stage) {  // tokens stay in registers
      if (!s.more()) break;
      weights_family<T> const& family = *s.t.family;
      int const d = s.t.row + chunk * 8;
      r.wait_emptied();
      if (threadIdx.x == consumers) {
        int const k = s.t.first + s.step * 64, column = s.t.column;
        int const panels = family.columns - column > 128 ? 4 : 2;
        arrive_and_expect(r.filled(), panels * panel_64);
        for (int n = rank * panels / 2; n < (rank + 1) * panels / 2; ++n)
          load_for(3, r.b() + n * panel_64, &family.b, k, s.t.part, column + n * 64, r.filled());
      }
      __syncwarp();
      T const* const from = g.tokens + d;
      int const token[4] = {tokens[stage].x, tokens[stage].y, tokens[stage].z, tokens[stage].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        T const* const at = from + std::int64_t{token[i]} * g.hidden;
        std::uint32_t const to = r.a() + place + i * 128 + ((chunk ^ ((row + i) & 7)) << 4);
        gather_16(to, at, token[i] >= 0 && d < g.hidden);
        gather_16(to + panel_64, at + 64, token[i] >= 0 && d + 64 < g.hidden);
      }
      gather_arrive(r.filled());
      look_up(tokens[stage]);
      s.advance();
      r.advance();
    }
  }
}

template <class T, bool transposed>
__device__ void consume_weights(weights_arguments<T> const& g, tile_deal const& deal,
                                weights_ring r, std::uint32_t panels, std::uint32_t fetched) {
  int const w = threadIdx.x / 128;
  bool const add = g.mode == gradients::accumulate;
  sums_store<T, transposed, weights_shape::staged> out{panels, fetched};
  float sums[128];
  int unit = deal.first();
  weights_tile<T> next(g, unit < deal.total ? unit : 0);
  while (unit < deal.total) {
    auto const t = next;
    unit = deal.next(unit);
    auto const look_up = [&] {
      if (unit < deal.total) next = weights_tile<T>(g, unit);
    };
    if (add && t.rows == 0) {
      look_up();
      continue;
    }
    weights_family<T> const& f = *t.family;
    int const count = min((f.columns - t.column + 63) / 64, 4);  // of 64 columns
    auto const at = [&](int n, auto use) {
      int const column = t.column + n * 64, of = column >= f.width ? 1 : 0;  // dup's
      int const c = column - of * f.width, d = t.row + w * 64;
      use(&f.out[t.part + of], t.expert, transposed ? c : d, transposed ? d : c);
    };
    auto const fetch = [&](int n) {
      if (add && n < count) at(n, [&](auto... place) { out.fetch(place...); });
    };
    for (int n = 0; n < weights_shape::staged; ++n) fetch(n);
    r.template multiply<T, 1, true>(sums, w, t.steps(), f.columns - t.column);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      if (n == 1) look_up();  // while the store reads the first panel
      if (n >= count) break;
      at(n, [&](auto... place) { out.put(sums, n, add, place...); });
      fetch(n + weights_shape::staged);
    }
  }
  if (out.leads()) store_wait_read<0>();
}

/// How many of the routed units together cost `work` steps, about, `per_expert` units each.
template <class T>
__device__ int units_of_work(weights_arguments<T> const& g, int per_expert, std::int64_t work) {
  int constexpr overhead = 2;  // of a unit, in steps
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
    for (int i = 0; i < 2 * shape::staged; ++i) barrier_init(fetched + 8 * i, 1);
    barrier_init_done();
  }
  __syncwarp();  // a warp must come to the cluster's barrier as one
  cluster_sync();
  int const clusters = static_cast<int>(gridDim.x) / 2;
  int const idle = clusters - g.shared_units % clusters;  // in the last round of shared units
  int const per_expert = g.routed.parts * g.routed.column_tiles * g.pairs;
  int head = 0;
  if (per_expert > 0 && idle < clusters)
    head = units_of_work(g, per_expert, std::int64_t{idle} * (g.rows.tokens / 64 + 2));
  tile_deal const deal(clusters, static_cast<int>(blockIdx.x) / 2, g.shared_units,
                       g.shared_units + g.rows.experts * per_expert, head);
  if (threadIdx.x < consumers) {
    take_registers<208>();
    int const w = threadIdx.x / 128;
    consume_weights<T, transposed>(g, deal, r, staging + w * shape::staged * panel_64,
                                   fetched + 8 * w * shape::staged);
  } else {
    give_registers<88>();
    produce_weights(g, deal, r);
  }
  __syncwarp();
  cluster_sync();  // the other CTA may still arrive here
#endif
}

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
