// What kernels over rows share: eight numbers at a time as f32, and sums over a block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include "memory.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace vector {

inline constexpr int width = 8;  // numbers of a vector: 16 bytes of bf16, 32 of f32

__device__ inline float to_float(bf16 x) { return static_cast<float>(x); }
__device__ inline float to_float(float x) { return x; }
__device__ inline void put(bf16* to, float x) {
  *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16_rn(x);
}
__device__ inline void put(float* to, float x) { *to = x; }

/// Eight numbers as they lie in memory, on a 16-byte border.
template <class T>
struct packed {
  uint4 words[sizeof(T) / 2];
};

template <class T>
__device__ packed<T> fetch(T const* from) {
  packed<T> p;
  auto const* const words = reinterpret_cast<uint4 const*>(from);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) p.words[i] = words[i];
  return p;
}
template <class T>
__device__ void store(T* to, packed<T> const& p) {
  auto* const words = reinterpret_cast<uint4*>(to);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) words[i] = p.words[i];
}

__device__ inline void unpack(packed<bf16> const& p, float (&x)[width]) {
  unsigned const words[4] = {p.words[0].x, p.words[0].y, p.words[0].z, p.words[0].w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(words[i] << 16);
    x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ inline void unpack(packed<float> const& p, float (&x)[width]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    x[4 * i] = __uint_as_float(p.words[i].x);
    x[4 * i + 1] = __uint_as_float(p.words[i].y);
    x[4 * i + 2] = __uint_as_float(p.words[i].z);
    x[4 * i + 3] = __uint_as_float(p.words[i].w);
  }
}

/// x as T, to the nearest.
template <class T>
__device__ packed<T> pack(float const (&x)[width]) {
  packed<T> p;
  if constexpr (sizeof(T) == 2) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      __nv_bfloat162 const two = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      words[i] = *reinterpret_cast<unsigned const*>(&two);
    }
    p.words[0] = {words[0], words[1], words[2], words[3]};
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      p.words[i] = {__float_as_uint(x[4 * i]), __float_as_uint(x[4 * i + 1]),
                    __float_as_uint(x[4 * i + 2]), __float_as_uint(x[4 * i + 3])};
  }
  return p;
}

/// N numbers, 1 or a vector, as f32.
template <int N, class T>
__device__ void load(T const* from, float (&x)[N]) {
  static_assert(N == 1 || N == width);
  if constexpr (N == 1)
    x[0] = to_float(*from);
  else
    unpack(fetch(from), x);
}
template <int N, class T>
__device__ void save(T* to, float const (&x)[N]) {
  static_assert(N == 1 || N == width);
  if constexpr (N == 1)
    put(to, x[0]);
  else
    store(to, pack<T>(x));
}

template <class S>
__device__ S warp_sum(S x) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}
/// The sum of all threads' x, in every thread; blocks are whole warps. `memory` holds 32 numbers.
template <class S>
__device__ S block_sum(S x, S* memory) {
  x = warp_sum(x);
  __syncthreads();  // memory may still be read for an earlier sum
  if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? memory[threadIdx.x % 32] : S(0));
}

/// The same of their maximum.
__device__ inline float block_most(float x, float* memory) {
  auto const of_warp = [](float most) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
      most = fmaxf(most, __shfl_xor_sync(~0u, most, apart));
    return most;
  };
  x = of_warp(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = x;
  __syncthreads();
  return of_warp(memory[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0]);
}

/// Whether rows `stride` numbers apart can be read in vectors.
template <class T>
bool aligned(T const* data, std::int64_t cols, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && cols % width == 0 &&
         stride % width == 0;
}
/// Threads of a block that works on `items` things: whole warps, `most` at most.
inline unsigned threads_for(std::int64_t items, int most) {
  return static_cast<unsigned>(
      std::clamp<std::int64_t>((items + 31) / 32 * 32, std::int64_t{32}, std::int64_t{most}));
}
inline unsigned blocks_for(std::int64_t items, std::int64_t of_block) {
  return static_cast<unsigned>((items + of_block - 1) / of_block);
}

}  // namespace vector
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
