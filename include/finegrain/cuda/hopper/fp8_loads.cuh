// fp8_products' work, tile by tile, and the thread that fills the ring of operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../fp8.hpp"
#include "../tile/block_place.hpp"
#include "../tile/wgmma.cuh"
#include "tile_ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::fp8 {

// A tile is 128 rows by two halves of 128 columns of weights: gate's and up's of the same numbers of
// hidden, or 256 of down's. It is the bf16 kernels' tile, twice as deep. A half has one scale a step,
// and up's tile is one part of hidden's rows. In clusters of 2 the CTAs take neighbouring tiles of
// rows: where these are of one expert, each loads one half of the weights for both.
struct tile {
  static constexpr int rows = 128, half = 128, depth = 128;
  static constexpr int stages = 4, threads = 384;
  static constexpr int a_bytes = rows * depth, half_bytes = half * depth;
  static constexpr int stage_bytes = a_bytes + 2 * half_bytes;
  static constexpr int scale_bytes = rows * 4;
  static constexpr int panel_bytes = 16 * 128;  // a warp's 16 rows by 128 bytes, on their way out
  static constexpr int scales_at = stages * stage_bytes;
  static constexpr int panels_at = scales_at + stages * scale_bytes;
  static constexpr int barriers_at = panels_at + 8 * 2 * panel_bytes;  // 8 warps, 2 panels each
  static constexpr int shared_bytes = barriers_at + 2 * stages * 8;
};
static_assert(tile::panels_at % 1024 == 0);

struct side {              // of one family
  CUtensorMap in, out;     // (rows, 1, K); (rows, 1, F or D), e4m3 or T
  CUtensorMap weights[2];  // (expert, column, K): gate and up; or down, twice
  float const* in_scales;  // (steps, in_rows)
  float* out_scales;       // (columns, out_rows), of up_forward
  bf16 const* scales[2];   // (experts, parts of the columns, steps)
  std::int64_t in_rows, out_rows;
  int parts;        // of the columns of one matrix, 128 each
  int columns = 0;  // of out, in tiles
  int steps = 0;    // of K, 128 each
};
struct arguments {
  side shared, routed;
  int shared_tiles = 0;  // of rows
  int tokens = 0;
  row_tile const* tiles = nullptr;
  std::int32_t const* tile_count = nullptr;  // null: no routed experts
  float linear = 0, cubic = 0;               // act(z) = z / (1 + 2^(z (linear + cubic z^2)))
  float limit = 0;                           // of z and up, where it is not 0
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct work {
  fp8::side const* side;
  int expert, first, count, column;
  bool together;  // the cluster's CTAs share the weights
};

/// A unit of work is a tile of columns for a pair of neighbouring tiles of rows, 4 pairs in turn.
__device__ inline work find_work(arguments const& a, int unit, int routed_tiles) {
  int const rank = cluster_rank();
  int const shared_pairs = (a.shared_tiles + 1) / 2, shared_units = shared_pairs * a.shared.columns;
  if (unit < shared_units) {
    auto const at = place_of<4>(unit, shared_pairs, a.shared.columns);
    // An odd last tile is computed twice, to the same bits.
    int const first = min(at.row_tile * 2 + rank, a.shared_tiles - 1) * tile::rows;
    return {&a.shared, 0, first, min(a.tokens - first, tile::rows), at.column_tile, true};
  }
  auto const at = place_of<4>(unit - shared_units, (routed_tiles + 1) / 2, a.routed.columns);
  row_tile const mine = a.tiles[min(at.row_tile * 2 + rank, routed_tiles - 1)];
  int const neighbour = a.tiles[min(at.row_tile * 2 + 1 - rank, routed_tiles - 1)].expert;
  return {&a.routed, mine.expert, mine.first, mine.count, at.column_tile, neighbour == mine.expert};
}

using ring = tile_ring<tile>;
/// A stage's scales of its rows.
__device__ inline std::uint32_t scales_in(ring const& ring) {
  return ring.base + tile::scales_at + ring.stage * tile::scale_bytes;
}

/// The producer: one thread.
template <bool Up>
__device__ void load_all(arguments const& a, ring ring, int unit, int units, int stride,
                         int routed_tiles) {
  int const rank = cluster_rank();
  for (; unit < units; unit += stride) {
    auto const w = find_work(a, unit, routed_tiles);
    side const& s = *w.side;
    int const column = w.column * (Up ? tile::half : 2 * tile::half), next = Up ? 0 : tile::half;
    float const* scales = s.in_scales + w.first;
    int const steps = s.steps;
    for (int step = 0; step < steps; ++step, ring.next(), scales += s.in_rows) {
      wait(ring.empty(), ring.parity ^ 1);
      std::uint32_t const to = ring.operands() + tile::a_bytes, full = ring.full();
      int const k = step * tile::depth;
      arrive_and_expect(full, tile::stage_bytes + tile::scale_bytes);
      load(ring.operands(), &s.in, w.first, 0, k, full);
      load_bytes(scales_in(ring), scales, tile::scale_bytes, full);
      if (w.together) {
        load_for(3, to + rank * tile::half_bytes, &s.weights[rank], w.expert, column + rank * next,
                 k, full);
      } else {
        load(to, &s.weights[0], w.expert, column, k, full);
        load(to + tile::half_bytes, &s.weights[1], w.expert, column + next, k, full);
      }
    }
  }
}

#endif

}  // namespace device::hopper::fp8
}  // namespace finegrain::inline FINEGRAIN_ABI
