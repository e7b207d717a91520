// What attention's kernels are made of: tiles in shared memory, and a warp's products of them.
//
// A tile's rows lie in panels of 128 bytes, 64 numbers or 32 of f32, whose 16-byte chunks are exchanged by
// chunk ^= row % 8: free of bank conflicts for ldmatrix, and the order that wgmma reads. Both
// families of instructions leave a warp the same 16 rows of sums in the same registers: of n8 tile
// n, d[n][0, 1] are row lane / 4, columns 2 (lane % 4) + {0, 1}, and d[n][2, 3] are 8 rows below.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../architectures.cuh"
#include "../tile/async.cuh"
#include "../tile/mma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::flash {

/// Whether this is the compiler's pass for compute capability 9.0a, which has wgmma.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool hopper = true;
#else
inline constexpr bool hopper = false;
#endif
/// Whether products of T are wgmma's here: f32 is multiplied one by one, on every device.
template <class T>
inline constexpr bool by_groups = hopper&& in_pairs<T>;

/// Copies 16 bytes to shared memory, or zeros, in which case nothing is read.
inline __device__ void copy_16(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
/// Copies 4 bytes to shared memory, or zeros, in which case nothing is read.
inline __device__ void copy_4(std::uint32_t to, void const* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(there ? 4 : 0)
               : "memory");
}
/// wait_async, after which wgmma may read what was copied.
template <int Pending>
__device__ void wait_copies() {
  wait_async<Pending>();
  if constexpr (hopper) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A point that threads of a block pass again and again, without waiting for one another there: a
/// thread waits where it must know that all have passed it. In shared memory.
struct milestone {
  std::uint32_t address;

  __device__ void create(int threads) const {  // by one thread, before a barrier of all
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address), "r"(threads) : "memory");
  }
  __device__ void pass() const {
    asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(address)
                 : "memory");
  }
  /// Until all have passed for the time'th time, counted from 0. No thread is two times ahead.
  __device__ void wait(int time) const {
    for (int passed = 0; !passed;)
      asm volatile(
          "{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.s32 %0, 1, 0, p;}"
          : "=r"(passed)
          : "r"(address), "r"(time & 1)
          : "memory");
  }
};

/// Rows x Dim numbers in shared memory from `address` on, a multiple of 1024.
template <class T, int Rows, int Dim>
struct tile {
  static constexpr int size = static_cast<int>(sizeof(T));
  static constexpr int panel = Rows * 128, bytes = Rows * Dim * size;
  std::uint32_t address;

  /// Where 16-byte chunk `chunk` of a row is.
  __device__ std::uint32_t at(int row, int chunk) const {
    return address + chunk / 8 * panel + row * 128 + ((chunk ^ row) & 7) * 16;
  }

  /// Begins to copy rows from global memory; rows from `count` and columns from `dim` on are zeros.
  template <int Threads>
  __device__ void load(T const* from, std::int64_t stride, int count, int dim, int thread) const {
    constexpr int chunks = Dim / in_chunk<T>, even = chunks & -chunks;  // a power of two
    constexpr int wide = even < Threads ? even : Threads;
    constexpr int step = Threads / wide;
    static_assert(Threads % wide == 0 && chunks % wide == 0);
#pragma unroll even == chunks ? 2 : 1  // else addresses take the registers of sums
    for (int first = 0; first < chunks; first += wide) {
      int const chunk = first + thread % wide, row = thread / wide;
      int const rows = chunk * in_chunk<T> < dim ? count : 0;
      T const* next = from + row * stride + chunk * in_chunk<T>;
#pragma unroll in_pairs < T> ? 4 : 1
      for (int i = 0; i < Rows; i += step, next += step * stride)
        if (Rows % step == 0 || row + i < Rows) copy_16(at(row + i, chunk), next, row + i < rows);
    }
  }
};

/// multiply_add of tile/mma.cuh, but kept in the order in which it is written.
template <class T>
__device__ void multiply(float (&d)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                         std::uint32_t b1) {
#define FINEGRAIN_MMA(type)                                                      \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type            \
               ".f32 "                                                           \
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<T, fp16>)
    FINEGRAIN_MMA("f16");
  else
    FINEGRAIN_MMA("bf16");
#undef FINEGRAIN_MMA
}

/// A warp's 16 rows of sums, K columns, as the left operand of a product over these: in pairs, or
/// as they are.
template <class T, int K>
using left = std::conditional_t<in_pairs<T>, std::uint32_t[(K + 15) / 16][4], float[K / 8][4]>;

template <class T, int K>
__device__ void pack(float const (&s)[K / 8][4], left<T, K>& p) {
  if constexpr (in_pairs<T>) {
#pragma unroll
    for (int k = 0; k < K / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float const* const pair = &s[2 * k + i / 2][i % 2 * 2];
        p[k][i] = device::pack<T>(pair[0], pair[1]);
      }
  } else {
#pragma unroll
    for (int k = 0; k < K / 8; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[k][i] = s[k][i];
  }
}

/// s (16, N) = rows [row, row + 16) of a . N rows of b^T, of columns [column, column + Columns): by
/// mma.sync.
template <int N, int Columns, class T, int Dim, int ARows, int BRows>
requires in_pairs<T> __device__ void warp_scores(float (&s)[N / 8][4], tile<T, ARows, Dim> a,
                                                 int row, tile<T, BRows, Dim> b, int column) {
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
    for (float& x : s[n]) x = 0;
#pragma unroll
  for (int k = 0; k < Columns / 16; ++k) {
    int const chunk = column / 8 + 2 * k;
    std::uint32_t left[4];
    load_matrices<false>(left, a.at(row + lane % 16, chunk + lane / 16));
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      std::uint32_t right[4];
      load_matrices<false>(right, b.at(n * 16 + lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2));
      multiply<T>(s[2 * n], left, right[0], right[1]);
      multiply<T>(s[2 * n + 1], left, right[2], right[3]);
    }
  }
}
/// d (16, Columns) += p (16, K) . columns [column, column + Columns) of b's first K rows.
template <int K, int Columns, class T, int Dim, int BRows>
requires in_pairs<T> __device__ void warp_mix(float (&d)[Columns / 8][4], left<T, K> const& p,
                                              tile<T, BRows, Dim> b, int column) {
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
#pragma unroll
    for (int n = 0; n < Columns / 16; ++n) {
      std::uint32_t right[4];
      load_matrices<true>(right, b.at(k * 16 + lane % 16, column / 8 + 2 * n + lane / 16));
      multiply<T>(d[2 * n], p[k], right[0], right[1]);
      multiply<T>(d[2 * n + 1], p[k], right[2], right[3]);
    }
}

/// Writes a warp's 16 rows of sums, times a factor for each of a thread's two rows, to rows
/// [row, end) of m's columns from `column` on, as far as `columns` go.
template <int N, class T>
__device__ void store_rows(float const (&d)[N / 8][4], float const (&factor)[2], int row, int end,
                           int column, int columns, matrix<T> m) {
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    std::int64_t const t = row + lane / 4 + 8 * r;
    if (t >= end) continue;
    T* const to = m.data + t * m.stride + column + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
      if (n * 8 < columns)
        store_two(to + n * 8, d[n][2 * r] * factor[r], d[n][2 * r + 1] * factor[r]);
  }
}

}  // namespace device::flash
}  // namespace finegrain::inline FINEGRAIN_ABI
