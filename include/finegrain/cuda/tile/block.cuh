// One block's product of two matrices: cp.async into a ring of stages in shared memory, ldmatrix,
// mma.sync; numbers of 32 bits are multiplied one by one, see singly.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operand.cuh"
#include "singly.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// sums += a b^T over `steps` tiles of K. from_a(step, pass) and from_b(step, pass) tell the source
/// of what a thread copies in a writer's pass; they are also asked about steps past the last, which
/// must not be there. All threads of the block call it; memory is free again when it returns.
///
/// A step is one block of code without branches: copies and reads find their place between
/// products, and the barrier in the middle, so that warps that wait have products under way.
template <class T, class S, bool A_along_k, bool B_along_k, class From_a, class From_b>
requires in_pairs<T> __device__ void multiply(block_sums<S>& sums, std::uint32_t memory, int steps,
                                              From_a&& from_a, From_b&& from_b) {
  using a_tile = operand_tile<T, S::m, S::k, A_along_k>;
  using b_tile = operand_tile<T, S::n, S::k, B_along_k>;
  using a_writer = tile_writer<a_tile, S::threads>;
  using b_writer = tile_writer<b_tile, S::threads>;
  constexpr int ks = S::k / 16, a_pieces = S::warp_m / 16, b_pieces = S::warp_n / 16;
  constexpr int passes = a_writer::passes + b_writer::passes, slots = ks * a_pieces;
  constexpr std::uint32_t b_at = S::m * S::k * 2, end = S::bytes;
  typename a_tile::reader const a_reader(sums.warp_row() * S::warp_m, false);
  typename b_tile::reader const b_reader(sums.warp_column() * S::warp_part, true);
  std::uint32_t a[2][a_pieces][4], b[2][b_pieces][4];
  auto const read = [&](int to, std::uint32_t stage, int k) {
#pragma unroll
    for (int i = 0; i < a_pieces; ++i) a_reader.read(a[to][i], stage, 16 * i, k);
#pragma unroll
    for (int j = 0; j < b_pieces; ++j)
      b_reader.read(b[to][j], stage + b_at, sums.column_offset(2 * j), k);
  };
  auto const copy = [&](std::uint32_t stage, int step, int pass) {
    if (pass < a_writer::passes)
      a_writer::write(stage, pass, from_a(step, pass));
    else
      b_writer::write(stage + b_at, pass - a_writer::passes, from_b(step, pass - a_writer::passes));
  };

#pragma unroll
  for (int s = 0; s < S::stages - 1; ++s) {
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) copy(memory + s * S::stage_bytes, s, pass);
    commit_async();
  }
  wait_async<S::stages - 2>();
  __syncthreads();
  std::uint32_t reading = 0, writing = end - S::stage_bytes;
  read(0, memory, 0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
#pragma unroll
    for (int k = 0; k < ks; ++k) {
      if (k == ks - 1) {  // this stage's pieces are all in registers: on to the next one
        wait_async<S::stages - 3>();
        __syncthreads();
        reading = reading + S::stage_bytes == end ? 0 : reading + S::stage_bytes;
      }
      read((k + 1) & 1, memory + reading, (k + 1) % ks);
#pragma unroll
      for (int i = 0; i < a_pieces; ++i) {
#pragma unroll
        for (int j = 0; j < b_pieces; ++j) {
          multiply_add<T>(sums.at[i][2 * j], a[k & 1][i], b[k & 1][j][0], b[k & 1][j][1]);
          multiply_add<T>(sums.at[i][2 * j + 1], a[k & 1][i], b[k & 1][j][2], b[k & 1][j][3]);
        }
        // The stage before this one is free since the last barrier.
        int const slot = k * a_pieces + i;
#pragma unroll
        for (int pass = slot * passes / slots; pass < (slot + 1) * passes / slots; ++pass)
          copy(memory + writing, step + S::stages - 1, pass);
      }
    }
    commit_async();
    writing = writing + S::stage_bytes == end ? 0 : writing + S::stage_bytes;
  }
  wait_async<0>();
  __syncthreads();
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
