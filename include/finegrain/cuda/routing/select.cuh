// The n-th largest of many keys, by the threads of a block: digit by digit, by counting.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../route.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

using wide_key = unsigned long long;

/// A key that is larger for a higher number, and in equal ones for a lower place; never 0.
__device__ inline wide_key key_at(float number, unsigned place) {
  return wide_key{rank_of(number)} << 32 | ~place;
}

/// The n-th largest (from 1 on) of key(0), ..., key(count - 1), which differ where they are not 0:
/// 0 is no key. 0 if there are fewer. All threads of a block call it.
template <class Key>
__device__ wide_key nth_largest(Key const& key, std::int64_t count, std::int64_t n) {
  __shared__ int bins[256];
  __shared__ wide_key found;
  __shared__ long long left;
  wide_key prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
      wide_key const k = key(i);
      bool const mine = k != 0 && (shift == 56 || k >> (shift + 8) == prefix);
      if (mine) atomicAdd(bins + (k >> shift & 255), 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      long long rest = n;
      int digit = 255;
      while (digit >= 0 && rest > bins[digit]) rest -= bins[digit--];
      found = digit < 0 ? 0 : prefix << 8 | static_cast<unsigned>(digit);
      left = digit < 0 ? 0 : rest;
    }
    __syncthreads();
    prefix = found, n = left;
    if (n == 0) return 0;
  }
  return prefix;
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
