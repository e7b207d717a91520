// Products of tiles by groups of 4 warps: by wgmma on Hopper, else by mma.sync, or of f32 one by one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "singly.cuh"
#include "tile.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::flash {

/// Tells the compiler that wgmma may still be at work on these registers.
template <int N>
__device__ void keep(float (&d)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
    for (float& x : d[n]) asm volatile("" : "+f"(x)::"memory");
}
template <int N>
__device__ void keep(std::uint32_t (&p)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
    for (std::uint32_t& x : p[n]) asm volatile("" : "+r"(x)::"memory");
}

/// What stands `offset` bytes behind `address`, as wgmma sees it: panels of 64 contiguous numbers
/// are `panel` bytes apart, groups of 8 rows 1024.
inline __device__ std::uint64_t descriptor(std::uint32_t address, int offset, int panel) {
  std::uint32_t const low =
      (address >> 4) + static_cast<std::uint32_t>(offset >> 4 | panel >> 4 << 16);
  constexpr std::uint32_t high = 1024 >> 4 | 1u << 30;  // and the exchange of chunks
  return std::uint64_t{high} << 32 | low;
}

#define FINEGRAIN_SUMS(as, n) as(d[n][0]), as(d[n][1]), as(d[n][2]), as(d[n][3])
#define FINEGRAIN_SUMS_16(as, n)                                               \
  FINEGRAIN_SUMS(as, n), FINEGRAIN_SUMS(as, n + 1), FINEGRAIN_SUMS(as, n + 2), \
      FINEGRAIN_SUMS(as, n + 3)
#define FINEGRAIN_SUMS_32(as) FINEGRAIN_SUMS_16(as, 0)
#define FINEGRAIN_SUMS_64(as) FINEGRAIN_SUMS_16(as, 0), FINEGRAIN_SUMS_16(as, 4)
#define FINEGRAIN_SUMS_128(as) \
  FINEGRAIN_SUMS_64(as), FINEGRAIN_SUMS_16(as, 8), FINEGRAIN_SUMS_16(as, 12)
#define FINEGRAIN_NAMES_32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FINEGRAIN_NAMES_64 \
  FINEGRAIN_NAMES_32       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FINEGRAIN_NAMES_128                                                                      \
  FINEGRAIN_NAMES_64                                                                             \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FINEGRAIN_WGMMA_OF(type, columns, sums, operands, ...)                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type \
               " " FINEGRAIN_NAMES_##columns "}, " operands                          \
               : FINEGRAIN_SUMS_##columns(sums)                                      \
               : __VA_ARGS__)
#define FINEGRAIN_WGMMA(...)                   \
  do {                                         \
    if constexpr (std::is_same_v<T, fp16>)     \
      FINEGRAIN_WGMMA_OF("f16", __VA_ARGS__);  \
    else                                       \
      FINEGRAIN_WGMMA_OF("bf16", __VA_ARGS__); \
  } while (false)

/// d (64, N) (+)= a (64, 16) . b (N, 16)^T, both in shared memory. The first of a sum's products
/// only writes d, so that d's registers may be in other use until then.
template <class T, int N, bool First>
__device__ void wgmma_rows(float (*d)[4], std::uint64_t a, std::uint64_t b) {
  static_assert(N == 32 || N == 64 || N == 128);
  if constexpr (N == 32 && First)
    FINEGRAIN_WGMMA(32, "=f", "%16, %17, 0, 1, 1, 0, 0;", "l"(a), "l"(b));
  else if constexpr (N == 32)
    FINEGRAIN_WGMMA(32, "+f", "%16, %17, 1, 1, 1, 0, 0;", "l"(a), "l"(b));
  else if constexpr (N == 64 && First)
    FINEGRAIN_WGMMA(64, "=f", "%32, %33, 0, 1, 1, 0, 0;", "l"(a), "l"(b));
  else if constexpr (N == 64)
    FINEGRAIN_WGMMA(64, "+f", "%32, %33, 1, 1, 1, 0, 0;", "l"(a), "l"(b));
  else if constexpr (First)
    FINEGRAIN_WGMMA(128, "=f", "%64, %65, 0, 1, 1, 0, 0;", "l"(a), "l"(b));
  else
    FINEGRAIN_WGMMA(128, "+f", "%64, %65, 1, 1, 1, 0, 0;", "l"(a), "l"(b));
}
/// d (64, N) += a (64, 16), in registers, . b (16, N) in shared memory.
template <class T, int N>
__device__ void wgmma_columns(float (*d)[4], std::uint32_t const (&a)[4], std::uint64_t b) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64)
    FINEGRAIN_WGMMA(64, "+f", "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;", "r"(a[0]), "r"(a[1]),
                    "r"(a[2]), "r"(a[3]), "l"(b));
  else
    FINEGRAIN_WGMMA(128, "+f", "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;", "r"(a[0]), "r"(a[1]),
                    "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef FINEGRAIN_SUMS
#undef FINEGRAIN_SUMS_16
#undef FINEGRAIN_SUMS_32
#undef FINEGRAIN_SUMS_64
#undef FINEGRAIN_SUMS_128
#undef FINEGRAIN_NAMES_32
#undef FINEGRAIN_NAMES_64
#undef FINEGRAIN_NAMES_128
#undef FINEGRAIN_WGMMA
#undef FINEGRAIN_WGMMA_OF

// A group of 4 warps multiplies 64 rows. On Hopper products are only begun, one after the other:
// their registers must be left alone until wait_products. Elsewhere they are done at once.

/// A thread's group in its block. The compiler can tell that a warp's lanes have the same one, and
/// keeps what follows from it, as wgmma's descriptors, out of their registers.
inline __device__ int group_of_thread() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
}
inline __device__ void begin_products() {
  if constexpr (hopper) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
inline __device__ void commit_products() {
  if constexpr (hopper) asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Products of T. (Of f32, which begins none, a block may have fewer warps than a group: there ptxas
/// only must not mix what is before with what is behind, or it spills.)
template <int Pending, class T>
__device__ void wait_products() {
  if constexpr (by_groups<T>)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  else if constexpr (hopper)
    __syncwarp();
}

/// s (64, N) = rows [row, row + 64) of a . the N rows of b^T.
template <int N, class T, int Dim, int ARows>
__device__ void begin_scores(float (&s)[N / 8][4], tile<T, ARows, Dim> a, int row,
                             tile<T, N, Dim> b) {
  if constexpr (by_groups<T>) {
    begin_products();
    wgmma_rows<T, N, true>(s, descriptor(a.address + row * 128, 0, 16),
                           descriptor(b.address, 0, 16));
#pragma unroll
    for (int k = 1; k < Dim / 16; ++k)
      wgmma_rows<T, N, false>(s,
                              descriptor(a.address + row * 128, k / 4 * a.panel + k % 4 * 32, 16),
                              descriptor(b.address, k / 4 * b.panel + k % 4 * 32, 16));
    commit_products();
  } else {
    warp_scores<N, Dim>(s, a, row + static_cast<int>(threadIdx.x) / 32 % 4 * 16, b, 0);
  }
}
/// d (64, Columns) += p (64, K) . columns [column, column + Columns) of the K rows of b.
template <int K, int Columns, class T, int Dim>
__device__ void begin_mix(float (&d)[Columns / 8][4], left<T, K>& p, tile<T, K, Dim> b,
                          int column = 0) {
  if constexpr (by_groups<T>) {
    constexpr int wide = Columns % 128 == 0 ? 128 : 64;
    keep(d);
    keep(p);
    begin_products();
#pragma unroll
    for (int k = 0; k < K / 16; ++k)
#pragma unroll
      for (int c = 0; c < Columns; c += wide)
        wgmma_columns<T, wide>(
            d + c / 8, p[k],
            descriptor(b.address + column / 64 * b.panel, c / 64 * b.panel + k * 2048, b.panel));
    commit_products();
  } else {
    warp_mix<K, Columns>(d, p, b, column);
  }
}

}  // namespace device::flash
}  // namespace finegrain::inline FINEGRAIN_ABI
