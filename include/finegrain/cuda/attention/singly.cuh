// A warp's products of tiles of f32, multiplied and added one by one: sums stand where mma.sync
// would leave them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::flash {

/// s (16, N) = rows [row, row + 16) of a . N rows of b^T, of columns [column, column + Columns).
template <int N, int Columns, class T, int Dim, int ARows, int BRows>
requires(!in_pairs<T>) __device__ void warp_scores(float (&s)[N / 8][4], tile<T, ARows, Dim> a,
                                                   int row, tile<T, BRows, Dim> b, int column) {
  int const lane = threadIdx.x % 32;
  auto const add = [](float& sum, float4 x, float4 y) {
    sum = fmaf(x.x, y.x, sum), sum = fmaf(x.y, y.y, sum);
    sum = fmaf(x.z, y.z, sum), sum = fmaf(x.w, y.w, sum);
  };
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
    for (float& x : s[n]) x = 0;
#pragma unroll 1
  for (int chunk = column / 4; chunk < (column + Columns) / 4; ++chunk) {
    auto const upper = load_shared<float4>(a.at(row + lane / 4, chunk)),
               lower = load_shared<float4>(a.at(row + lane / 4 + 8, chunk));
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        auto const right = load_shared<float4>(b.at(n * 8 + lane % 4 * 2 + w, chunk));
        add(s[n][w], upper, right);
        add(s[n][2 + w], lower, right);
      }
  }
}

/// d (16, Columns) += p (16, K) . columns [column, column + Columns) of b's first K rows. A row's p
/// go around among the four lanes that have them.
template <int K, int Columns, class T, int Dim, int BRows>
requires(!in_pairs<T>) __device__ void warp_mix(float (&d)[Columns / 8][4], left<T, K> const& p,
                                                tile<T, BRows, Dim> b, int column) {
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (k % 4 == 0) __syncwarp();  // else reads are begun all at once, and have no registers
    int const from = (lane & ~3) + k % 8 / 2;
    float const upper = __shfl_sync(~0u, p[k / 8][k % 2], from),
                lower = __shfl_sync(~0u, p[k / 8][2 + k % 2], from);
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
      auto const right = load_shared<float2>(b.at(k, column / 4 + 2 * n + lane % 4 / 2) +
                                             static_cast<std::uint32_t>(lane % 2 * 8));
      d[n][0] = fmaf(upper, right.x, d[n][0]), d[n][1] = fmaf(upper, right.y, d[n][1]);
      d[n][2] = fmaf(lower, right.x, d[n][2]), d[n][3] = fmaf(lower, right.y, d[n][3]);
    }
  }
}

}  // namespace device::flash
}  // namespace finegrain::inline FINEGRAIN_ABI
