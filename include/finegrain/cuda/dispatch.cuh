// dispatch: from the experts that tokens chose to rows, by counting: no sorting, and no atomic
// operation whose order matters.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dispatch.hpp"
#include "overlap.cuh"
#include "router_tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Shared memory of index_rows, in int32: (R), (R + 1), (32), (warps, R).
FINEGRAIN_HD constexpr int index_words(int R, int warps) { return 2 * R + 33 + warps * R; }
/// Warps of a block for so many words of shared memory each, on top of `fixed` ones: what fits
/// into the 48 KB that every kernel may have.
constexpr int warps_that_fit(int fixed, int each, int most) {
  int warps = most;
  while (warps > 1 && fixed + warps * each > 12 * 1024) warps /= 2;
  return warps;
}

/// The sum of x of the lanes up to this one.
__device__ inline int sum_up_to(int x) {
  int const lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    int const left = __shfl_up_sync(all_lanes, x, step);
    if (lane >= step) x += left;
  }
  return x;
}

/// The part of `rows` that block `block` of `blocks` writes: the rows of its tokens [begin, end),
/// the tiles and pads of every blocks-th expert, and, in the first, offsets. All threads call it.
/// Where there is but one block, it makes rows.counts. If not, they are there already, and `before`
/// (R) are each expert's rows in earlier blocks.
__device__ inline void index_rows(row_map const& rows, std::int32_t const* experts,
                                  float const* weights, std::int32_t const* before, int block,
                                  int blocks, std::int64_t begin, std::int64_t end,
                                  std::int32_t* shared) {
  int const R = rows.experts, k = rows.slots, tile = rows.tile;
  int const threads = static_cast<int>(blockDim.x), warps = threads / 32;
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  std::int32_t* const counts = shared;           // (R) rows of each expert
  std::int32_t* const offsets = counts + R;      // (R + 1)
  std::int32_t* const pieces = offsets + R + 1;  // (32) rows of 32 experts each, with pads
  std::int32_t* const next = pieces + 32;
  std::int32_t* const my_next = next + warp * R;

  auto const padded = [tile](int count) { return (count + tile - 1) & -tile; };

  // Each warp has a run of the block's slots, and counts those of each expert.
  std::int64_t const slots = (end - begin) * k, first = begin * k;
  std::int64_t const run = ceil_div(slots, warps * 32) * 32;
  std::int64_t const from = warp * run, to = min(slots, from + run);
  for (int i = thread; i < warps * R; i += threads) next[i] = 0;
  for (int e = thread; e < R; e += threads) counts[e] = blocks > 1 ? rows.counts[e] : 0;
  __syncthreads();
  // Slots are read several at a time: each read is as long as all of them.
  constexpr int ahead = 4;
  std::int32_t expert[ahead];
  auto const read = [&](std::int64_t i) {
#pragma unroll
    for (int n = 0; n < ahead; ++n)
      expert[n] = i + n * 32 + lane < to ? experts[first + i + n * 32 + lane] : -1;
  };
  for (std::int64_t i = from; i < to; i += 32 * ahead) {
    read(i);
#pragma unroll
    for (int n = 0; n < ahead; ++n)
      if (expert[n] >= 0) atomicAdd(my_next + expert[n], 1);
  }
  __syncthreads();

  // A warp's next row of an expert: the expert's first, and the rows of blocks and warps before.
  for (int piece = warp; piece * 32 < R; piece += warps) {
    int const e = piece * 32 + lane;
    int count = 0;
#pragma unroll 8
    for (int w = 0; blocks == 1 && e < R && w < warps; ++w) count += next[w * R + e];
    if (blocks == 1 && e < R) counts[e] = rows.counts[e] = count;
    __syncwarp();
    int const sum = sum_up_to(e < R ? padded(counts[e]) : 0);
    if (lane == 31) pieces[piece] = sum;
  }
  __syncthreads();
  int const all = sum_up_to(lane * 32 < R ? pieces[lane] : 0);
  for (int piece = warp; piece * 32 < R; piece += warps) {
    int const e = piece * 32 + lane;
    int const mine = e < R ? padded(counts[e]) : 0;
    int const offset = sum_up_to(mine) - mine + __shfl_sync(all_lanes, all, piece) - pieces[piece];
    if (e >= R) continue;
    int at = offset + (blocks > 1 ? before[e] : 0);
    for (int w = 0; w < warps; ++w) {
      int const n = next[w * R + e];
      next[w * R + e] = at;
      at += n;
    }
    offsets[e] = offset;
    if (block == 0) rows.offsets[e] = offset;
  }
  if (thread == 31) {
    offsets[R] = all;
    if (block == 0) rows.offsets[R] = all, *rows.tile_count = all / tile;
  }
  __syncthreads();

  for (int e = block + warp * blocks; e < R; e += warps * blocks) {
    int const offset = offsets[e], count = counts[e];
    for (int at = lane * tile; at < count; at += 32 * tile)
      rows.tiles[(offset + at) / tile] = {e, offset + at, min(tile, count - at), 0};
    for (int row = offset + count + lane; row < offsets[e + 1]; row += 32) {
      rows.row_token[row] = -1;
      rows.row_weight[row] = 0;
    }
  }
  // 32 slots at a time: those of one expert have rows in the order of their lanes.
  for (std::int64_t i0 = from; i0 < to; i0 += 32 * ahead) {
    float weight[ahead];
    read(i0);
#pragma unroll
    for (int n = 0; n < ahead; ++n)
      weight[n] = expert[n] >= 0 ? weights[first + i0 + n * 32 + lane] : 0;
#pragma unroll
    for (int n = 0; n < ahead; ++n) {
      std::int64_t const i = i0 + n * 32, slot = first + i + lane;
      std::int32_t const e = expert[n];
      unsigned const same = __match_any_sync(all_lanes, e);
      int const rank = __popc(same & ((1u << lane) - 1));
      int const row = e >= 0 ? my_next[e] + rank : -1;
      __syncwarp();
      if (e >= 0) {
        rows.row_token[row] = static_cast<std::int32_t>(slot / k);
        rows.row_weight[row] = weight[n];
        if (rank == __popc(same) - 1) my_next[e] = row + 1;
      }
      if (i + lane < to) rows.slot_row[slot] = row;
      __syncwarp();
    }
  }
}

/// block_counts (blocks, R) of experts (T, k).
template <class T>
__global__ void count_kernel(row_map rows, std::int32_t const* experts, std::int32_t* block_counts,
                             int chunk) {
  extern __shared__ std::int32_t shared[];
  int const R = rows.experts;
  std::int64_t const begin = std::int64_t{blockIdx.x} * chunk;
  std::int64_t const end = min(std::int64_t{rows.tokens}, begin + chunk);
  for (int e = threadIdx.x; e < R; e += blockDim.x) shared[e] = 0;
  __syncthreads();
  for (std::int64_t i = begin * rows.slots + threadIdx.x; i < end * rows.slots; i += blockDim.x)
    if (experts[i] >= 0) atomicAdd(shared + experts[i], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < R; e += blockDim.x)
    block_counts[std::int64_t{blockIdx.x} * R + e] = shared[e];
}

/// rows.counts = the sums over blocks of counts (blocks, R), which become sums over earlier blocks.
/// A block for 32 experts; each of its 32 warps has a run of the blocks.
template <class T>
__global__ __launch_bounds__(1024) void scan_kernel(row_map rows, std::int32_t* counts,
                                                    int blocks) {
  __shared__ int sums[32][32];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, R = rows.experts;
  int const e = blockIdx.x * 32 + lane, run = (blocks + 31) / 32;
  int const from = warp * run, to = min(blocks, from + run);
  int sum = 0;
#pragma unroll 8
  for (int b = from; b < to; ++b) sum += e < R ? counts[b * R + e] : 0;
  sums[warp][lane] = sum;
  __syncthreads();
  int at = 0;
#pragma unroll
  for (int w = 0; w < 32; ++w) at += w < warp ? sums[w][lane] : 0;
  if (e >= R) return;
  if (warp == 31) rows.counts[e] = at + sum;
#pragma unroll 8
  for (int b = from; b < to; ++b) {
    int const n = counts[b * R + e];
    counts[b * R + e] = at;
    at += n;
  }
}

template <class T>
__global__ __launch_bounds__(1024) void index_kernel(row_map rows, std::int32_t const* experts,
                                                     float const* weights,
                                                     std::int32_t const* before, int chunk) {
  extern __shared__ std::int32_t shared[];
  wait_for_launch_ahead();
  std::int64_t const begin = std::int64_t{blockIdx.x} * chunk;
  index_rows(rows, experts, weights, before + std::int64_t{blockIdx.x} * rows.experts,
             static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), begin,
             min(std::int64_t{rows.tokens}, begin + chunk), shared);
}

/// Up to so many slots one block makes all rows, by itself.
inline constexpr std::int64_t slots_of_one_block = 4096;
inline bool one_block_indexes(row_map const& rows) {
  return std::int64_t{rows.tokens} * rows.slots <= slots_of_one_block ||
         token_chunks::of(rows.tokens, rows.experts).blocks == 1;
}

/// The rest of building rows, from block_counts on, which it scans in place.
template <class T>
void launch_index(row_map const& rows, std::int32_t const* experts, float const* weights,
                  std::int32_t* block_counts, CUstream_st* stream) {
  auto chunks = token_chunks::of(rows.tokens, rows.experts);
  if (one_block_indexes(rows)) {
    chunks = {1, rows.tokens};
  } else {
    scan_kernel<T><<<unsigned((rows.experts + 31) / 32), 1024, 0, stream>>>(rows, block_counts,
                                                                            chunks.blocks);
    check_launch("dispatch: scan");
  }
  int const warps =
      warps_that_fit(index_words(rows.experts, 0), rows.experts, chunks.blocks == 1 ? 32 : 16);
  launch_overlapping(index_kernel<T>, dim3(unsigned(chunks.blocks)), warps * 32,
                     4 * index_words(rows.experts, warps), stream, "dispatch: index", rows, experts,
                     weights, block_counts, chunks.tokens);
}

template <class T>
void dispatch<T>::build(row_map const& rows, std::int32_t const* experts, float const* weights,
                        std::int32_t* block_counts, CUstream_st* stream) {
  auto const chunks = token_chunks::of(rows.tokens, rows.experts);
  if (!one_block_indexes(rows)) {
    count_kernel<T><<<chunks.blocks, 512, sizeof(int) * std::size_t(rows.experts), stream>>>(
        rows, experts, block_counts, chunks.tokens);
    check_launch("dispatch: count");
  }
  launch_index<T>(rows, experts, weights, block_counts, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
