// What kernels over rows share: eight numbers at a time as f32, and sums over a block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/bounds.hpp"
#include "memory.cuh"
#include "tile/number.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace vector {

template <class T>
__device__ float to_float(T x) {
  return load_one(&x);
}
template <class T>
__device__ void put(T* to, float x) {
  store_one(to, x);
}

inline constexpr int width = 8;  // numbers of a vector: 16 bytes of 16-bit ones, 32 of f32

template <class T>
using packed = eight<T>;
template <class T>
__device__ packed<T> fetch(T const* from) {
  return load_eight(from);
}
template <class T>
__device__ void store(T* to, packed<T> const& p) {
  store_eight(to, p);
}
template <class T>
__device__ void unpack(packed<T> const& p, float (&x)[width]) {
  device::unpack<T>(x, p);
}
template <class T>
__device__ packed<T> pack(float const (&x)[width]) {
  return device::pack<T>(x);
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
__device__ inline float warp_most(float most) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    most = fmaxf(most, __shfl_xor_sync(~0u, most, apart));
  return most;
}
__device__ inline float block_most(float x, float* memory) {
  x = warp_most(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) memory[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_most(memory[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0]);
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
      at_most<std::int64_t>(at_least<std::int64_t>((items + 31) / 32 * 32, 32), most));
}
inline unsigned blocks_for(std::int64_t items, std::int64_t of_block) {
  return static_cast<unsigned>(ceil_div(items, of_block));
}

}  // namespace vector
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
