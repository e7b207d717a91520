// Random weights: every number is a function of its matrix's seed and its place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/random.hpp"
#include "random.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Blocks (range, part of it).
template <class T>
__global__ void __launch_bounds__(256) random_kernel(random_range const* ranges, T* to) {
  random_range const r = ranges[blockIdx.x];
  std::int64_t const step = std::int64_t{gridDim.y} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.y} * blockDim.x + threadIdx.x; i < r.count;
       i += step) {
    auto const place = static_cast<std::uint64_t>(i);
    double x = r.value;
    if (r.kind == random_range::normal)
      x *= random_normal(r.seed, place);
    else if (r.kind == random_range::whole)
      x = static_cast<double>(random_word(r.seed, place) >> (64 - r.bits));
    vector::put(to + r.offset + i, static_cast<float>(x));
  }
}

template <class T>
void random_numbers<T>::fill(random_range const* ranges, std::int64_t count, T* to,
                             CUstream_st* stream) {
  if (count == 0) return;
  random_kernel<T><<<dim3(static_cast<unsigned>(count), 64), 256, 0, stream>>>(ranges, to);
  check_launch("random_kernel");
}

template <class T>
using random_code = code<&random_numbers<T>::fill>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
