// One block's product of two matrices of f32, multiplied and added one by one: tensor cores would
// round them to tf32. Tiles, their ring and the sums' places are those of block.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operand.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Reads of a tile of f32: four k of one row or column, or of two columns side by side.
template <class Tile, bool Along_k>
struct single_reader {
  std::uint32_t tile;

  /// Wide numbers from `at` on of Size, of the four k from 4 * four on: to[k][.].
  template <int Wide>
  __device__ void read(float (&to)[4][Wide], int at, int four) const {
    if constexpr (Along_k) {
#pragma unroll
      for (int w = 0; w < Wide; ++w) {
        float4 const f = load_shared<float4>(tile + Tile::offset(at + w, four));
        to[0][w] = f.x, to[1][w] = f.y, to[2][w] = f.z, to[3][w] = f.w;
      }
    } else {
      auto const in_chunk = static_cast<std::uint32_t>(at % 4 * 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t const from = tile + Tile::offset(4 * four + k, at / 4) + in_chunk;
        if constexpr (Wide == 2) {
          float2 const f = load_shared<float2>(from);
          to[k][0] = f.x, to[k][1] = f.y;
        } else {
          to[k][0] = load_shared<float>(from);
        }
      }
    }
  }
};

/// multiply of block.cuh. A thread has the sums that mma.sync would leave it, and reads for itself
/// the rows and columns of these; lanes that share one read it together.
template <class T, class S, bool A_along_k, bool B_along_k, class From_a, class From_b>
requires(!in_pairs<T>) __device__ void multiply(block_sums<S>& sums, std::uint32_t memory,
                                                int steps, From_a&& from_a, From_b&& from_b) {
  using a_tile = operand_tile<T, S::m, deep<T, S>, A_along_k>;
  using b_tile = operand_tile<T, S::n, deep<T, S>, B_along_k>;
  using a_writer = tile_writer<a_tile, S::threads>;
  using b_writer = tile_writer<b_tile, S::threads>;
  constexpr std::uint32_t b_at = S::m * S::k * 2, end = S::bytes;
  auto const copy = [&](std::uint32_t stage, int step) {
#pragma unroll
    for (int pass = 0; pass < a_writer::passes; ++pass)
      a_writer::write(stage, pass, from_a(step, pass));
#pragma unroll
    for (int pass = 0; pass < b_writer::passes; ++pass)
      b_writer::write(stage + b_at, pass, from_b(step, pass));
    commit_async();
  };
#pragma unroll
  for (int s = 0; s < S::stages - 1; ++s) copy(memory + s * S::stage_bytes, s);
  std::uint32_t reading = 0, writing = end - S::stage_bytes;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_async<S::stages - 2>();
    __syncthreads();
    copy(memory + writing, step + S::stages - 1);
    writing = writing + S::stage_bytes == end ? 0 : writing + S::stage_bytes;
    single_reader<a_tile, A_along_k> const a_reader{memory + reading};
    single_reader<b_tile, B_along_k> const b_reader{memory + reading + b_at};
#pragma unroll 1
    for (int four = 0; four < deep<T, S> / 4; ++four) {
      float a[2 * sums.rows][4][1];
#pragma unroll
      for (int i = 0; i < 2 * sums.rows; ++i) a_reader.read(a[i], sums.row(i / 2, i % 2), four);
#pragma unroll
      for (int j = 0; j < sums.columns; ++j) {
        float b[4][2];
        b_reader.read(b, sums.column(j) + sums.lane() % 4 * 2, four);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int i = 0; i < 2 * sums.rows; ++i)
#pragma unroll
            for (int w = 0; w < 2; ++w) {
              float& sum = sums.at[i / 2][j][i % 2 * 2 + w];
              sum = fmaf(a[i][k][0], b[k][w], sum);
            }
      }
    }
    reading = reading + S::stage_bytes == end ? 0 : reading + S::stage_bytes;
  }
  wait_async<0>();
  __syncthreads();
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
