// Products of coded weights with tiles of many tokens: warps stream their own weight rows past a
// tile of tokens' rows that all of them read in shared memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode/ring.cuh"
#include "decode/unit.cuh"
#include "gated.cuh"
#include "tile/block_place.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// A block of M tokens and `warps` times Blocks times 16 weight rows, a step of 64 columns a stage;
/// of as many stages as every device has room for.
template <class W, int M, int Blocks>
struct coded_shape {
  static constexpr int m = M, blocks = Blocks,
                       per_processor = M < 64 || (M < 128 && W::step_bytes <= 1024) ? 2 : 1;
  static constexpr int token_bytes = M * 128, warp_bytes = Blocks * W::step_bytes;
  static constexpr int stage_bytes = token_bytes + warps * warp_bytes;
  static constexpr int stages = at_most(99 * 1024 / stage_bytes, 4), bytes = stages * stage_bytes;
  /// Groups of 8 tokens whose products are made without a branch between: there are registers.
  static constexpr int together = M == 128 ? 4 : 1;
  template <bool Up>
  static constexpr int columns = warps* Blocks* outputs<Up>;

  /// Where the 16-byte piece `chunk` of a token's 64 columns stands. Reads of lanes 4 g + c, of 8
  /// columns each, and copies of rows meet in no bank.
  static __device__ std::uint32_t offset(int row, int chunk) {
    int const flip = W::columns == 8 ? (row & 1) << 2 | (row >> 1 & 3) : row & 7;
    return static_cast<std::uint32_t>(row * 128 + ((chunk ^ flip) << 4));
  }
};

/// A block's tile of rows, and the first of its columns of outputs.
template <class T, class S, bool Up>
struct coded_block {
  expert_family<T> family;
  bool shared, there;
  int expert, first, count, written, column;

  __device__ explicit coded_block(expert_products<T> const& p) : there(true) {
    int const T_ = p.rows.tokens, block = static_cast<int>(blockIdx.x);
    auto const columns = [&](int width) {
      return ceil_div(Up ? width : p.hidden, S::template columns<Up>);
    };
    int const shared_tiles = p.shared.width > 0 ? ceil_div(T_, S::m) : 0;
    int const shared_blocks = shared_tiles * columns(p.shared.width);
    shared = block < shared_blocks;
    family = shared ? p.shared : p.routed;
    int const across = columns(family.width);
    int const row_tiles =
        shared ? shared_tiles : (static_cast<int>(gridDim.x) - shared_blocks) / across;
    auto const at = place_of(shared ? block : block - shared_blocks, row_tiles, across);
    column = at.column_tile * S::template columns<Up>;
    if (shared) {
      expert = 0, first = at.row_tile * S::m;
      count = written = min(S::m, T_ - first);
    } else if (there = at.row_tile < *p.rows.tile_count; there) {
      auto const tile = p.rows.tiles[at.row_tile];
      expert = tile.expert, first = tile.first, count = tile.count, written = S::m;
    }
  }
  /// Where row r's numbers that are multiplied stand, in 16 bytes.
  __device__ std::uint32_t row(expert_products<T> const& p, int r) const {
    std::int64_t at = first + r;
    if constexpr (Up)
      if (!shared) at = p.rows.row_token[at];
    return static_cast<std::uint32_t>(at * (Up ? p.hidden : family.width) / 8);
  }
};

/// Half a step's codes of 16 rows, at `from` in shared memory, in mma order, and the scales of rows
/// g and g + 8 where they stand there.
template <class W>
__device__ void take_half(std::uint32_t (&a)[2][4], float (&scale)[2], std::uint32_t from,
                          int half) {
  if constexpr (W::scale == scales::inside) {
    std::uint32_t both;
    asm volatile("ld.shared.b32 %0, [%1];"
                 : "=r"(both)
                 : "r"(from + W::pieces * 512 - threadIdx.x % 32 * 8 + 4 * half)
                 : "memory");
    float2 const two = unpack<bf16>(both);
    scale[0] = two.x, scale[1] = two.y;  // W::unit follows at the end
  }
  std::uint32_t word[2][2];
#pragma unroll
  for (int row = 0; row < 2; ++row)
    if constexpr (W::pieces == 1)
      asm volatile("ld.shared.b32 %0, [%1];"
                   : "=r"(word[row][0])
                   : "r"(from + 8 * row + 4 * half)
                   : "memory");
    else
      asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                   : "=r"(word[row][0]), "=r"(word[row][1])
                   : "r"(from + 512 * row + 8 * half)
                   : "memory");
#pragma unroll
  for (int row = 0; row < 2; ++row)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if constexpr (W::pieces == 1)
        a[i][row] = W::pair(word[row][0], 2 * i), a[i][row + 2] = W::pair(word[row][0], 2 * i + 1);
      else
        W::decode(word[row][i], a[i][row], a[i][row + 2]);
}

template <class T, class W, class S, bool Up>
__global__ void __launch_bounds__(threads, S::per_processor)
    coded_rows_kernel(__grid_constant__ expert_products<T> const p,
                      __grid_constant__ family_weights<W> const routed,
                      __grid_constant__ family_weights<W> const shared) {
  extern __shared__ uint4 memory[];
  coded_block<T, S, Up> const b(p);
  if (!b.there) return;
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int const g = lane / 4, c = lane % 4;
  int const K = Up ? p.hidden : b.family.width, N = Up ? b.family.width : p.hidden;
  int const first = b.column + warp * S::blocks * outputs<Up>, steps = (K + 63) / 64;

  // 8 threads copy a row's step.
  constexpr int passes = S::m / 32;
  int const chunk = thread % 8;
  auto const* const tokens = reinterpret_cast<uint4 const*>(Up ? p.x : b.family.hidden) + chunk;
  std::uint32_t token[passes];
#pragma unroll
  for (int i = 0; i < passes; ++i) {
    int const r = thread / 8 + 32 * i;
    token[i] = r < b.count ? b.row(p, r) : ~0u;
  }
  auto const& w = b.shared ? shared : routed;
  lane_weights<W, Up> from[S::blocks];
#pragma unroll
  for (int m = 0; m < S::blocks; ++m) from[m] = {w, b.expert, first + m * outputs<Up>, N, K};

  std::uint32_t const start = shared_address(memory);
  std::uint32_t const lane_start = S::token_bytes + warp * S::warp_bytes + lane * 16;
  auto const issue = [&](int step, std::uint32_t stage) {
    if (step < steps) {
#pragma unroll
      for (int i = 0; i < passes; ++i)
        load_async(stage + S::offset(thread / 8 + 32 * i, chunk), tokens + (token[i] + 8 * step),
                   ~token[i] && 64 * step + 8 * chunk < K);
      int const at = from[0].before(64 * step);
#pragma unroll
      for (int m = 0; m < S::blocks; ++m)
        issue_step<W>(stage + lane_start + m * W::step_bytes, from[m].low + at, from[m].high + at);
    }
    commit_async();
  };
  constexpr int groups = S::m / 8;
  float sum[S::blocks][groups][4] = {};
#pragma unroll
  for (int s = 0; s < S::stages - 1; ++s) issue(s, start + s * S::stage_bytes);
  std::uint32_t reading = start;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_async<S::stages - 2>();
    __syncthreads();
    issue(step + S::stages - 1,
          reading + (reading == start ? S::bytes - S::stage_bytes : -S::stage_bytes));
    float scale[S::blocks][2];
    if constexpr (W::scale == scales::square) {
#pragma unroll
      for (int m = 0; m < S::blocks; ++m) from[m].scales_of(w, 64 * step, scale[m]);
    }
#pragma unroll 1  // or else too much of it stands in registers
    for (int half = 0; half < 2; ++half) {
      std::uint32_t a[S::blocks][2][4];
#pragma unroll
      for (int m = 0; m < S::blocks; ++m)
        take_half<W>(a[m], scale[m], reading + lane_start + m * W::step_bytes, half);
      int const piece = W::columns == 8 ? c + 4 * half : 2 * c + half;
#pragma unroll
      for (int j = 0; j < groups; ++j) {
        if (j > 0 && j % S::together == 0 && 8 * j >= b.count)
          break;  // nor are pads' products made
        uint4 const x = read_shared(reading + S::offset(8 * j + g, piece));
#pragma unroll
        for (int m = 0; m < S::blocks; ++m)
          if constexpr (W::scale == scales::row) {
            multiply_add<T>(sum[m][j], a[m][0], x.x, x.y);
            multiply_add<T>(sum[m][j], a[m][1], x.z, x.w);
          } else {
            multiply_half<T>(sum[m][j], a[m][0], a[m][1], x, scale[m]);
          }
      }
    }
    reading += S::stage_bytes;
    if (reading == start + S::bytes) reading = start;
  }
  wait_async<0>();

  coded_block<T, S, Up> const to(p);  // once more, rather than kept in registers
  int const output = to.column + warp * S::blocks * outputs<Up> + g;

  T* const at =
      (Up ? to.family.hidden : to.family.out) + (std::int64_t{to.first} + 2 * c) * N + output;
#pragma unroll
  for (int m = 0; m < S::blocks; ++m) {
    float by[2] = {1, 1};
    if constexpr (W::scale == scales::inside) by[0] = by[1] = W::unit;
    if constexpr (W::scale == scales::row) from[m].scales_of(w, 0, by);
    int const n = m * outputs<Up>, left = N - output - n;  // outputs from this lane's on
#pragma unroll
    for (int i = 0; i < 2 * groups; ++i) {
      int const r = i / 2 * 8 + i % 2;
      if (r + 2 * c >= to.written || left <= 0) continue;
      float low = by[0] * sum[m][i / 2][i % 2], high = by[1] * sum[m][i / 2][2 + i % 2];
      T* const y = at + std::int64_t{r} * N + n;
      if constexpr (Up) {
        if (p.act.limit > 0) bring_within(p.act.limit, low, high);
        *y = T(gate_function(p.act)(low) * high);
      } else {
        *y = T(low);
        if (left > 8) y[8] = T(high);
      }
    }
  }
}

template <bool Up, int M, class T, class W>
void coded_rows(expert_products<T> const& p, family_weights<W> const& routed,
                family_weights<W> const& shared, CUstream_st* stream, char const* name) {
  using S = coded_shape<W, M, 2>;
  auto const columns = [&](int width) {
    return ceil_div(Up ? width : p.hidden, S::template columns<Up>);
  };
  int const shared_tiles = p.shared.width > 0 ? ceil_div(p.rows.tokens, M) : 0;
  std::int64_t const blocks = std::int64_t{shared_tiles} * columns(p.shared.width) +
                              p.rows.max_tiles() * columns(p.routed.width);
  if (blocks == 0) return;
  auto const kernel = coded_rows_kernel<T, W, S, Up>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes), name);
  kernel<<<static_cast<unsigned>(blocks), threads, S::bytes, stream>>>(p, routed, shared);
  check_launch(name);
}

}  // namespace decode
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
