// Operands of a block's product in shared memory: where numbers lie, and how they come there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "async.cuh"
#include "mma.cuh"
#include "sums.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// How many numbers deep a shape's tiles are.
template <class T, class S>
inline constexpr int deep = S::k * 2 / static_cast<int>(sizeof(T));

/// A tile in shared memory of an operand with Size rows or columns, K deep: stored (Size, K) where
/// Along_k, else (K, Size). 16-byte chunks of a row change places by the row's number, so that
/// neither copies in nor ldmatrix, 8 rows at a time, meet in a bank.
template <class T, int Size, int K, bool Along_k>
struct operand_tile {
  static constexpr int rows = Along_k ? Size : K, columns = Along_k ? K : Size;
  static constexpr int of_chunk = in_chunk<T>, pitch = columns * static_cast<int>(sizeof(T));
  static_assert(pitch == 64 || pitch % 128 == 0);

  __device__ static int flip(int row) { return pitch == 64 ? row >> 1 & 3 : row & 7; }
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

/// 16 bytes of global memory, or zeros. A row's numbers come from pointer + row * numbers of a row.
struct source {
  void const* at;
  bool there;
};
template <class T>
__device__ source row_source(T const* first, int row, int of_row, bool there) {
  int const row_bytes = of_row * static_cast<int>(sizeof(T));
  return {reinterpret_cast<char const*>(first) + static_cast<std::int64_t>(row) * row_bytes, there};
}

/// A block's threads fill a tile, in `passes` of 16 bytes for each thread, all in one column.
template <class Tile, int Threads>
struct tile_writer {
  static constexpr int chunks = Tile::columns / Tile::of_chunk, step = Threads / chunks;
  static constexpr int passes = ceil_div(Tile::rows, step);
  static_assert(Threads % chunks == 0);

  __device__ static int row(int pass) {
    return static_cast<int>(threadIdx.x) / chunks + pass * step;
  }
  __device__ static int column() { return static_cast<int>(threadIdx.x) % chunks * Tile::of_chunk; }
  __device__ static void write(std::uint32_t tile, int pass, source from) {
    if (Tile::rows % step == 0 || row(pass) < Tile::rows)
      load_async(tile + Tile::offset(row(pass), static_cast<int>(threadIdx.x) % chunks), from.at,
                 from.there);
  }
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
