// hopper_transposed's work, piece by piece, and the warpgroup that fills the ring of operands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../dispatch.hpp"
#include "../tile/place.hpp"
#include "../tile/tma.cuh"
#include "../tile/wgmma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

// A tile is 128 rows of weights by the rows of a piece: 32, 64 ... 224 rows of one expert. Of
// up_forward's weights 8 rows of gate and the same 8 of up take turns, so that a thread holds both
// numbers of a hidden one.
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
  CUtensorMap weights;    // (expert, F / 8, 2, 8, D), or (expert, D, F)
  CUtensorMap in, out;    // (rows, 1, F) of down_forward; (rows, 1, F or D)
  int columns = 0;        // of out, in tiles of 64, or 128
  int steps = 0;          // of K, 64 each
  bool up_first = false;  // of the pairs
};
template <class T>
struct transposed_arguments {
  transposed_side shared, routed;
  int shared_rows = 0, experts = 0;
  int span = 0, stages = 0, stage_bytes = 0;
  int width = 0;  // of x (T, D)
  T const* x = nullptr;
  std::int32_t const *counts = nullptr, *offsets = nullptr, *row_token = nullptr;
  float linear = 0, cubic = 0;  // act(z) = z / (1 + 2^(z (linear + cubic z^2)))
};

/// One array of two, first and second (experts, F, D), of which the first has the lower address:
/// (expert, F / 8, {first, second}, 8, D). Its tiles are 64 rows of each in turns of 8, 64 deep.
template <class T>
CUtensorMap map_of_pairs(T const* first, T const* second, int experts, int F, int D) {
  auto const size = [](std::int64_t n) { return static_cast<cuuint64_t>(n); };
  cuuint64_t const apart = static_cast<cuuint64_t>(reinterpret_cast<std::uintptr_t>(second) -
                                                   reinterpret_cast<std::uintptr_t>(first));
  cuuint64_t const sizes[5] = {size(D), 8, 2, size(F / 8), size(experts)};
  cuuint64_t const strides[4] = {size(D) * 2, apart, size(D) * 16, size(std::int64_t{F} * D * 2)};
  cuuint32_t const box[5] = {64, 8, 2, 8, 1}, steps[5] = {1, 1, 1, 1, 1};
  auto const encoder = map_encoder();
  if (!encoder) throw cuda_error("the driver has no cuTensorMapEncodeTiled");
  CUtensorMap map;
  CUresult const result =
      encoder(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, const_cast<T*>(first), sizes, strides, box,
              steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw cuda_error("a tensor map of %d experts' gate and up (%d, %d), %lld bytes apart: error %d",
                     experts, F, D, static_cast<long long>(apart), static_cast<int>(result));
  return map;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A tile of map_of_pairs, from row 8 * `eight` of each on.
__device__ inline void load_pairs(std::uint32_t to, CUtensorMap const* map, int expert, int eight,
                                  int k, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(map), "r"(k), "r"(0), "r"(eight), "r"(expert), "r"(barrier)
      : "memory");
}

struct transposed_work {
  transposed_side const* side;
  int expert, first, count, column;
  bool shared;
  __device__ int rows() const {
    return (count + transposed_tile::step - 1) & -transposed_tile::step;
  }
};

/// table (R + 1): pieces of the experts before. All threads of the CTA call it.
template <class T>
__device__ void count_pieces(transposed_arguments<T> const& a, int* table) {
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
template <class T>
struct transposed_list {
  transposed_arguments<T> const& a;
  int const* table;
  row_pieces shared;
  int shared_units, units;

  __device__ transposed_list(transposed_arguments<T> const& a, int const* table)
      : a(a),
        table(table),
        shared(a.shared_rows, a.span),
        shared_units(shared.pieces * a.shared.columns),
        units(shared_units + table[a.experts] * a.routed.columns) {}

  __device__ transposed_work operator[](int unit) const {
    if (unit < shared_units) {
      auto const at = place_of<2>(unit, shared.pieces, a.shared.columns);
      int const first = at.row_tile * shared.size, rest = a.shared_rows - first;
      int const count = min(rest, shared.size);
      return {&a.shared, 0, first, count, at.column_tile, true};
    }
    auto const at = place_of<2>(unit - shared_units, table[a.experts], a.routed.columns);
    int expert = 0, end = a.experts;  // table[expert] <= row_tile < table[end]
    while (end - expert > 1) {
      int const middle = (expert + end) / 2;
      (table[middle] <= at.row_tile ? expert : end) = middle;
    }
    row_pieces const of(a.counts[expert], a.span);
    int const first = (at.row_tile - table[expert]) * of.size;
    int const count = min(a.counts[expert] - first, of.size);
    return {&a.routed, expert, a.offsets[expert] + first, count, at.column_tile, false};
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

/// The producer of down_forward: one thread.
template <class T>
__device__ void load_pieces(transposed_list<T> const& list, transposed_ring ring) {
  using tile = transposed_tile;
  for (int unit = static_cast<int>(blockIdx.x); unit < list.units;
       unit += static_cast<int>(gridDim.x)) {
    auto const w = list[unit];
    int const steps = w.side->steps, rows = w.rows();
    for (int step = 0; step < steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      int const k = step * tile::depth;
      arrive_and_expect(ring.full(), tile::weight_bytes + rows * tile::row_bytes);
      load(ring.weights(), &w.side->weights, w.expert, w.column * tile::weights, k, ring.full());
      for (int row = 0; row < rows; row += tile::step)
        load(ring.rows() + row * tile::row_bytes, &w.side->in, w.first + row, 0, k, ring.full());
    }
  }
}

/// The producer of up_forward: 128 threads gather rows of x, 8 threads a row of 64 numbers, and thread
/// 0 asks for the weights.
template <class T>
__device__ void gather_pieces(transposed_list<T> const& list, transposed_ring ring) {
  using tile = transposed_tile;
  constexpr int most = tile::most / 16;
  auto const& a = list.a;
  int const thread = static_cast<int>(threadIdx.x), row = thread / 8, chunk = thread % 8;
  std::uint32_t const at = swizzled(row, chunk);  // 16 rows on: 2048 bytes on
  int next[most];  // a piece's tokens are read while the one before it is gathered
  auto const look_up = [&](int unit) {
    if (unit >= list.units) return;
    auto const w = list[unit];
#pragma unroll
    for (int i = 0; i < most; ++i) {
      int const r = row + 16 * i;
      next[i] = r >= w.count ? -1 : w.shared ? w.first + r : a.row_token[w.first + r];
    }
  };
  int unit = static_cast<int>(blockIdx.x);
  look_up(unit);
  for (; unit < list.units; unit += static_cast<int>(gridDim.x)) {
    auto const w = list[unit];
    int token[most];
#pragma unroll
    for (int i = 0; i < most; ++i) token[i] = next[i];
    look_up(unit + static_cast<int>(gridDim.x));
    int const steps = w.side->steps, rows = w.rows();
    for (int step = 0; step < steps; ++step, ring.next()) {
      int const k = step * tile::depth;
      wait(ring.empty(), ring.parity ^ 1);
      if (thread == 0) {
        arrive_and_expect(ring.full(), tile::weight_bytes);
        load_pairs(ring.weights(), &w.side->weights, w.expert, w.column * 8, k, ring.full());
      }
      bool const inside = k + chunk * 8 < a.width;
      T const* const x = a.x + (k + chunk * 8);
#pragma unroll
      for (int i = 0; i < most; ++i) {
        if (16 * i >= rows) break;
        gather_16(ring.rows() + at + 2048 * i, x + std::int64_t{max(token[i], 0)} * a.width,
                  inside && token[i] >= 0);
      }
      gather_arrive(ring.full());
    }
  }
}

#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
