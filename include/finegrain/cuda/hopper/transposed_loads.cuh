// hopper_transposed's work, piece by piece, and the thread that fills the ring of operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../row_map.hpp"
#include "../tile/block_place.hpp"
#include "../tile/tma.cuh"
#include "../tile/wgmma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

// A tile is 128 rows of weights by the rows of a piece: 32, 64 ... 224 rows of one expert.
struct transposed_tile {
  static constexpr int weights = 128, depth = 64, step = 32, most = 224, threads = 384;
  static constexpr int weight_bytes = weights * depth * 2, row_bytes = depth * 2;
  static constexpr int panel_bytes = step * 128;  // of a warpgroup, on their way out; 2 each
  static constexpr int most_stages = 8, ring_bytes = 206 * 1024;
  static constexpr int panels_at = ring_bytes;
  static constexpr int barriers_at = panels_at + 4 * panel_bytes;
  static constexpr int table_at = barriers_at + 2 * most_stages * 8;
  static constexpr int shared_bytes(int experts) { return table_at + 4 * (experts + 1); }
};

/// An expert's rows in pieces of at most `span`, all but the last of the same size.
struct row_pieces {
  int pieces, size;
  FINEGRAIN_HD row_pieces(int count, int span)
      : pieces((count + span - 1) / span),
        size(pieces > 0 ? ((count + pieces - 1) / pieces + transposed_tile::step - 1) /
                              transposed_tile::step * transposed_tile::step
                        : 0) {}
};

struct transposed_side {  // of one family
  CUtensorMap weights;    // (expert, D, F)
  CUtensorMap in, out;    // (rows, 1, F), (rows, 1, D)
};
struct transposed_arguments {
  transposed_side shared, routed;
  int shared_rows = 0, experts = 0, columns = 0;  // of out, in tiles
  int shared_steps = 0, routed_steps = 0;         // of F, 64 each
  int span = 0, stages = 0, stage_bytes = 0;
  std::int32_t const *counts = nullptr, *offsets = nullptr;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct transposed_work {
  transposed_side const* side;
  int steps, expert, first, count, column;
  __device__ int rows() const {
    return (count + transposed_tile::step - 1) & -transposed_tile::step;
  }
};

/// table (R + 1): pieces of the experts before. All threads of the CTA call it.
__device__ inline void count_pieces(transposed_arguments const& a, int* table) {
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  for (int e = thread; e < a.experts; e += transposed_tile::threads)
    table[e + 1] = row_pieces(a.counts[e], a.span).pieces;
  __syncthreads();
  if (thread < 32) {
    int all = 0;
    for (int from = 0; from < a.experts; from += 32) {
      int sum = from + lane < a.experts ? table[from + lane + 1] : 0;
      for (int step = 1; step < 32; step *= 2) {
        int const left = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += left;
      }
      if (from + lane < a.experts) table[from + lane + 1] = all + sum;
      all += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) table[0] = 0;
  }
  __syncthreads();
}

/// Units of work, the shared expert's first: a piece and a tile of columns, two pieces in turn.
struct transposed_list {
  transposed_arguments const& a;
  int const* table;
  row_pieces shared;
  int shared_units, units;

  __device__ transposed_list(transposed_arguments const& a, int const* table)
      : a(a),
        table(table),
        shared(a.shared_rows, a.span),
        shared_units(shared.pieces * a.columns),
        units(shared_units + table[a.experts] * a.columns) {}

  __device__ transposed_work operator[](int unit) const {
    if (unit < shared_units) {
      auto const at = place_of<2>(unit, shared.pieces, a.columns);
      int const first = at.row_tile * shared.size, rest = a.shared_rows - first;
      int const count = min(rest, shared.size);
      return {&a.shared, a.shared_steps, 0, first, count, at.column_tile};
    }
    auto const at = place_of<2>(unit - shared_units, table[a.experts], a.columns);
    int expert = 0, end = a.experts;  // table[expert] <= row_tile < table[end]
    while (end - expert > 1) {
      int const middle = (expert + end) / 2;
      (table[middle] <= at.row_tile ? expert : end) = middle;
    }
    row_pieces const of(a.counts[expert], a.span);
    int const first = (at.row_tile - table[expert]) * of.size;
    int const count = min(a.counts[expert] - first, of.size);
    return {&a.routed, a.routed_steps, expert, a.offsets[expert] + first, count, at.column_tile};
  }
};

/// Where in the ring, and in which of its rounds.
struct transposed_ring {
  std::uint32_t base;
  int stages, stage_bytes;
  int stage = 0;
  std::uint32_t parity = 0;

  __device__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ std::uint32_t weights() const {
    return base + static_cast<std::uint32_t>(stage * stage_bytes);
  }
  __device__ std::uint32_t rows() const { return weights() + transposed_tile::weight_bytes; }
  __device__ std::uint32_t full() const {
    return base + transposed_tile::barriers_at + static_cast<std::uint32_t>(stage) * 8;
  }
  __device__ std::uint32_t empty() const { return full() + transposed_tile::most_stages * 8; }
};

/// The producer: one thread.
__device__ inline void load_pieces(transposed_list const& list, transposed_ring ring) {
  using tile = transposed_tile;
  for (int unit = static_cast<int>(blockIdx.x); unit < list.units;
       unit += static_cast<int>(gridDim.x)) {
    auto const w = list[unit];
    int const rows = w.rows();
    for (int step = 0; step < w.steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      int const k = step * tile::depth;
      arrive_and_expect(ring.full(), tile::weight_bytes + rows * tile::row_bytes);
      load(ring.weights(), &w.side->weights, w.expert, w.column * tile::weights, k, ring.full());
      for (int row = 0; row < rows; row += tile::step)
        load(ring.rows() + row * tile::row_bytes, &w.side->in, w.first + row, 0, k, ring.full());
    }
  }
}

#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
