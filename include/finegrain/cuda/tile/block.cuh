// One block's product of two matrices of 16-bit numbers: cp.async into a ring of stages in shared
// memory, ldmatrix, mma.sync.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "async.cuh"
#include "mma.cuh"
#include "sums.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// A tile in shared memory of an operand with Size rows or columns, K deep: stored (Size, K) where
/// Along_k, else (K, Size). 16-byte chunks of a row change places by the row's number, so that
/// neither copies in nor ldmatrix, 8 rows at a time, meet in a bank.
template <int Size, int K, bool Along_k>
struct operand_tile {
  static constexpr int rows = Along_k ? Size : K, columns = Along_k ? K : Size;
  static constexpr int pitch = 2 * columns;  // bytes
  static_assert(columns == 32 || columns % 64 == 0);

  __device__ static int flip(int row) { return columns == 32 ? row >> 1 & 3 : row & 7; }
  __device__ static std::uint32_t offset(int row, int chunk) {
    return static_cast<std::uint32_t>(row * pitch + ((chunk ^ flip(row)) << 4));
  }

  /// Where a lane finds its rows of the four matrices of a 16 x 16 piece: for operand a, or for b,
  /// whose second matrix is to the right of the first one. `at`: the warp's first row of Size.
  class reader {
   public:
    __device__ reader(int at, bool b) {
      int const lane = threadIdx.x & 31, eight = lane & 7, second = lane >> 3 & 1,
                third = lane >> 4;
      int const of_size = b ? third : second, of_k = b ? second : third;  // which 8 of 16
      int const row = eight + 8 * (Along_k ? of_size : of_k);
      flip_ = flip(row);
      start_ = (row + (Along_k ? at : 0)) * pitch;
      chunk_ = Along_k ? of_k : of_size + at / 8;
    }
    /// The piece at + i of Size, k-th 16 of K; i a multiple of 16.
    __device__ void read(std::uint32_t (&to)[4], std::uint32_t tile, int i, int k) const {
      int const chunk = chunk_ + (Along_k ? 2 * k : i / 8);
      int const further = (Along_k ? i : 16 * k) * pitch;
      load_matrices<!Along_k>(to, tile + start_ + further + ((chunk ^ flip_) << 4));
    }

   private:
    int start_, chunk_, flip_;
  };
};

/// 16 bytes of global memory, or zeros. A row's numbers come from pointer + row * bytes of a row.
struct source {
  void const* at;
  bool there;
};
template <class T>
__device__ source row_source(T const* first, int row, int row_bytes, bool there) {
  return {reinterpret_cast<char const*>(first) + static_cast<std::int64_t>(row) * row_bytes, there};
}

/// A block's threads fill a tile, in `passes` of 16 bytes for each thread, all in one column.
template <class Tile, int Threads>
struct tile_writer {
  static constexpr int chunks = Tile::columns / 8, step = Threads / chunks;
  static constexpr int passes = (Tile::rows + step - 1) / step;
  static_assert(Threads % chunks == 0);

  __device__ static int row(int pass) {
    return static_cast<int>(threadIdx.x) / chunks + pass * step;
  }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % chunks * 8; }
  __device__ static void write(std::uint32_t tile, int pass, source from) {
    if (Tile::rows % step == 0 || row(pass) < Tile::rows)
      load_async(tile + Tile::offset(row(pass), column() / 8), from.at, from.there);
  }
};

/// sums += a b^T over `steps` tiles of K. from_a(step, pass) and from_b(step, pass) tell the source
/// of what a thread copies in a writer's pass; they are also asked about steps past the last, which
/// must not be there. All threads of the block call it; memory is free again when it returns.
///
/// A step is one block of code without branches: copies and reads find their place between
/// products, and the barrier in the middle, so that warps that wait have products under way.
template <class T, class S, bool A_along_k, bool B_along_k, class From_a, class From_b>
__device__ void multiply(block_sums<S>& sums, std::uint32_t memory, int steps, From_a&& from_a,
                         From_b&& from_b) {
  using a_tile = operand_tile<S::m, S::k, A_along_k>;
  using b_tile = operand_tile<S::n, S::k, B_along_k>;
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
