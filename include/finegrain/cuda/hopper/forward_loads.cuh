// hopper_forward's work, tile by tile, and the warpgroup that fills the ring of operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../row_map.hpp"
#include "../tile/block_place.hpp"
#include "../tile/wgmma.cuh"
#include "tile_ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

// A tile is 128 rows by 256 columns of weights: 256 of down's outputs; or 128 of gate's and the
// same 128 of up's, so that a thread holds both numbers of a hidden one. In clusters of 2 the CTAs
// take neighbouring tiles of rows: where these are of one expert, each loads one half of the
// weights for both.
struct forward_tile {
  static constexpr int rows = 128, half = 128, depth = 64;
  static constexpr int stages = 4, threads = 384;
  static constexpr int a_bytes = rows * depth * 2, half_bytes = half * depth * 2;
  static constexpr int stage_bytes = a_bytes + 2 * half_bytes;
  static constexpr int panel_bytes = 16 * 128;  // a warp's 16 rows by 64 columns, on their way out
  static constexpr int panels_at = stages * stage_bytes;
  static constexpr int barriers_at = panels_at + 8 * 2 * panel_bytes;  // 8 warps, 2 panels each
  static constexpr int shared_bytes = barriers_at + 2 * stages * 8;
};

struct forward_side {      // of one family
  CUtensorMap in;          // (rows, 1, K): hidden; of up_forward x, where no row is gathered
  CUtensorMap weights[2];  // (expert, column, K): gate and up; or down, twice
  CUtensorMap out, z;      // (rows, 1, F or D), (rows, 2, F)
  bool save_z = false;
  int columns = 0;  // of out, in tiles
  int steps = 0;    // of K, 64 each
};
template <class T>
struct forward_arguments {
  forward_side shared, routed;
  int shared_tiles = 0;       // of rows
  int tokens = 0, width = 0;  // of x (T, D)
  T const* x = nullptr;
  row_tile const* tiles = nullptr;
  std::int32_t const* tile_count = nullptr;  // null: no routed experts
  std::int32_t const* row_token = nullptr;
  float linear = 0, cubic = 0;  // act(z) = z / (1 + 2^(z (linear + cubic z^2)))
  float limit = 0;              // of z and up, where it is not 0
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct forward_work {
  forward_side const* side;
  int expert, first, count, column;
  bool shared, together;  // together: the cluster's CTAs share the weights
};

/// A unit of work is a tile of columns for a pair of neighbouring tiles of rows, 4 pairs in turn.
template <class T>
__device__ forward_work find_work(forward_arguments<T> const& a, int unit, int routed_tiles) {
  using tile = forward_tile;
  int const rank = cluster_rank();
  int const shared_pairs = (a.shared_tiles + 1) / 2, shared_units = shared_pairs * a.shared.columns;
  if (unit < shared_units) {
    auto const at = place_of<4>(unit, shared_pairs, a.shared.columns);
    // An odd last tile is computed twice, to the same bits.
    int const first = min(at.row_tile * 2 + rank, a.shared_tiles - 1) * tile::rows;
    return {&a.shared, 0, first, min(a.tokens - first, tile::rows), at.column_tile, true, true};
  }
  auto const at = place_of<4>(unit - shared_units, (routed_tiles + 1) / 2, a.routed.columns);
  row_tile const mine = a.tiles[min(at.row_tile * 2 + rank, routed_tiles - 1)];
  int const neighbour = a.tiles[min(at.row_tile * 2 + 1 - rank, routed_tiles - 1)].expert;
  return {&a.routed,
          mine.expert,
          mine.first,
          mine.count,
          at.column_tile,
          false,
          neighbour == mine.expert};
}

using forward_ring = tile_ring<forward_tile>;

/// Asks for a stage's weights, and for its rows where they are not gathered. One thread.
template <bool Up>
__device__ void load_operands(forward_work const& w, forward_ring const& ring, int step) {
  using tile = forward_tile;
  std::uint32_t const to = ring.operands() + tile::a_bytes, full = ring.full();
  int const k = step * tile::depth;
  int const column = w.column * (Up ? tile::half : 2 * tile::half), next = Up ? 0 : tile::half;
  bool const gathered = Up && !w.shared;
  arrive_and_expect(full, (gathered ? 0 : tile::a_bytes) + 2 * tile::half_bytes);
  if (!gathered) load(ring.operands(), &w.side->in, w.first, 0, k, full);
  if (w.together) {
    int const rank = cluster_rank();
    load_for(3, to + rank * tile::half_bytes, &w.side->weights[rank], w.expert,
             column + rank * next, k, full);
  } else {
    load(to, &w.side->weights[0], w.expert, column, k, full);
    load(to + tile::half_bytes, &w.side->weights[1], w.expert, column + next, k, full);
  }
}

/// The producer of down_forward: one thread.
template <class T>
__device__ void load_all(forward_arguments<T> const& a, forward_ring ring, int unit, int units,
                         int stride, int routed_tiles) {
  for (; unit < units; unit += stride) {
    auto const w = find_work(a, unit, routed_tiles);
    int const steps = w.side->steps;  // read once
    for (int step = 0; step < steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      load_operands<false>(w, ring, step);
    }
  }
}

/// The producer of up_forward: 128 threads gather rows of x, 8 threads a row of 64 numbers, and
/// thread 0 asks for the weights.
template <class T>
__device__ void gather_all(forward_arguments<T> const& a, forward_ring ring, int unit, int units,
                           int stride, int routed_tiles) {
  using tile = forward_tile;
  int const thread = threadIdx.x, row = thread / 8, chunk = thread % 8;
  std::uint32_t const at = swizzled(row, chunk);  // 16 rows on: 2048 bytes on
  struct {
    forward_work work;
    int token[8];
  } next{};  // a tile's tokens are read while the one before it is gathered
  auto const look_up = [&](int unit) {
    if (unit >= units) return;
    next.work = find_work(a, unit, routed_tiles);
    if (next.work.shared) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) next.token[i] = a.row_token[next.work.first + row + 16 * i];
  };
  look_up(unit);
  for (; unit < units; unit += stride) {
    auto const w = next.work;
    T const* from[8];
    unsigned pads = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      from[i] = a.x + static_cast<std::int64_t>(max(next.token[i], 0)) * a.width + chunk * 8;
      pads |= (next.token[i] < 0) << i;
    }
    look_up(unit + stride);
    int const steps = w.side->steps;
    for (int step = 0; step < steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      if (thread == 0) load_operands<true>(w, ring, step);
      if (!w.shared) {
        bool const inside = step * tile::depth + chunk * 8 < a.width;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          gather_16(ring.operands() + at + 2048 * i, from[i], inside && !(pads >> i & 1));
          from[i] += tile::depth;
        }
      }
      gather_arrive(ring.full());
    }
  }
}

#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
