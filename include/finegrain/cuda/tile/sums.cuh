// The sums of a block of a product, in its threads' registers, and how they leave.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// A block's M x N sums, K at a time, by Down x Across warps; Stages tiles of each operand are in
/// flight. Its N columns are made of `Parts` equal parts, and every warp has a share of each: two
/// where columns of two matrices must meet in one thread.
template <int M, int N, int K, int Down, int Across, int Stages, int Parts = 1>
struct block_shape {
  static constexpr int m = M, n = N, k = K, down = Down, across = Across, stages = Stages;
  static constexpr int parts = Parts, part = N / Parts;  // part: columns of one part
  static constexpr int threads = 32 * Down * Across;
  static constexpr int warp_m = M / Down, warp_n = N / Across, warp_part = warp_n / Parts;
  static constexpr int stage_bytes = (M + N) * K * 2, bytes = Stages * stage_bytes;
  static_assert(warp_m % 16 == 0 && warp_part % 32 == 0 && K % 32 == 0 && Stages >= 3);
};

/// The sums of one thread: pieces of 16 x 8 of its warp's.
template <class S>
struct block_sums {
  static constexpr int rows = S::warp_m / 16, columns = S::warp_n / 8;
  float at[rows][columns][4] = {};

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / 32 / S::across; }
  __device__ static int warp_column() { return static_cast<int>(threadIdx.x) / 32 % S::across; }
  /// In the block: the row of at[i][.][2 h], and the first column of the 8 of at[.][j].
  __device__ static int row(int i, int h) {
    return warp_row() * S::warp_m + 16 * i + 8 * h + lane() / 4;
  }
  __device__ static int column(int j) { return warp_column() * S::warp_part + column_offset(j); }
  FINEGRAIN_HD static constexpr int column_offset(int j) {
    return 8 * j / S::warp_part * S::part + 8 * j % S::warp_part;
  }
};

/// Hands out a block's sums by rows, through shared memory: fetch(r, c) for several rows, then
/// use(r, c, sums, fetched) for each, with the 8 sums of row r from column c of each part on.
/// part / 8 lanes that stand together have a row, so that it is read and written as a whole. All
/// threads of the block call it; what does not fit in memory at once goes in turns.
template <class S, class Fetch, class Use>
__device__ void each_row(block_sums<S> const& sums, float* memory, Fetch const& fetch,
                         Use const& use) {
  constexpr int fit = S::bytes / (4 * S::n) / S::warp_m * S::warp_m;
  constexpr int rows = fit < S::m ? fit : S::m, lanes = S::part / 8, step = S::threads / lanes;
  constexpr int batch = rows / step < 4 ? rows / step : 4;
  static_assert(fit > 0 && S::m % rows == 0 && lanes <= 32 && rows % (step * batch) == 0);
  auto const place = [](int r, int c) {  // chunks change places as in operand_tile
    int const chunk = c / 4;
    return r * S::n + 4 * (chunk ^ (r & 7) ^ (chunk >> 3 & 1)) + c % 4;
  };
  int const c = static_cast<int>(threadIdx.x) % lanes * 8;
#pragma unroll 1
  for (int start = 0; start < S::m; start += rows) {
    if (sums.warp_row() * S::warp_m / rows * rows == start)
#pragma unroll
      for (int i = 0; i < sums.rows; ++i)
#pragma unroll
        for (int j = 0; j < sums.columns; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            *reinterpret_cast<float2*>(
                memory + place(sums.row(i, h) - start, sums.column(j) + sums.lane() % 4 * 2)) = {
                sums.at[i][j][2 * h], sums.at[i][j][2 * h + 1]};
    __syncthreads();
#pragma unroll 1
    for (int r = static_cast<int>(threadIdx.x) / lanes; r < rows; r += step * batch) {
      decltype(fetch(0, 0)) fetched[batch];
#pragma unroll
      for (int i = 0; i < batch; ++i) fetched[i] = fetch(start + r + i * step, c);
#pragma unroll
      for (int i = 0; i < batch; ++i) {
        float of_row[S::parts][8];
#pragma unroll
        for (int part = 0; part < S::parts; ++part)
#pragma unroll
          for (int half = 0; half < 8; half += 4) {
            auto const four = *reinterpret_cast<float4 const*>(
                memory + place(r + i * step, part * S::part + c + half));
            of_row[part][half] = four.x, of_row[part][half + 1] = four.y;
            of_row[part][half + 2] = four.z, of_row[part][half + 3] = four.w;
          }
        use(start + r + i * step, c, of_row, fetched[i]);
      }
    }
    if (start + rows < S::m) __syncthreads();
  }
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
