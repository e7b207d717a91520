// cached_rows: rows of new tokens are found, and copied to their places in a cache.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cached_rows.hpp"
#include "rotary.cuh"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
__global__ void __launch_bounds__(128)
    find_rows_kernel(places where, std::int64_t const* lengths, std::int64_t capacity,
                     std::int64_t* rows, std::int64_t* positions) {
  int const t[1] = {static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x)};
  if (t[0] >= where.tokens) return;
  int sequence[1];
  find_sequences(where, t, sequence);
  std::int64_t const at = lengths[sequence[0]] + t[0] - first_row(where, sequence[0]);
  rows[t[0]] = sequence[0] * capacity + at;
  if (positions) positions[t[0]] = at;
}
template <class T>
void cached_rows<T>::find(std::int64_t const* starts, std::int64_t const* lengths,
                          std::int64_t sequences, std::int64_t capacity, std::int64_t tokens,
                          std::int64_t* rows, std::int64_t* positions, CUstream_st* stream) {
  if (tokens == 0) return;
  places const where{.tokens = tokens, .starts = starts, .sequences = sequences};
  find_rows_kernel<T><<<vector::blocks_for(tokens, 128), 128, 0, stream>>>(where, lengths, capacity,
                                                                           rows, positions);
  check_launch("find_rows_kernel");
}

template <class T>
__global__ void __launch_bounds__(256)
    keep_rows_kernel(matrix<T const> from, std::int64_t const* rows, std::int64_t first,
                     matrix<T> to) {
  int const vectors = static_cast<int>(from.cols) / vector::width;
  std::int64_t const item = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::int64_t const t = item / vectors;
  if (t >= from.rows) return;
  int const c = static_cast<int>(item % vectors) * vector::width;
  std::int64_t const row = rows ? rows[t] : first + t;
  vector::store(to.data + row * to.stride + c, vector::fetch(from.data + t * from.stride + c));
}
template <class T>
void cached_rows<T>::keep(matrix<T const> from, std::int64_t const* rows, std::int64_t first,
                          matrix<T> to, CUstream_st* stream) {
  if (from.rows == 0) return;
  auto const blocks = vector::blocks_for(from.size() / vector::width, 256);
  keep_rows_kernel<T><<<blocks, 256, 0, stream>>>(from, rows, first, to);
  check_launch("keep_rows_kernel");
}

template <class T>
using cached_rows_code = code<&cached_rows<T>::find, &cached_rows<T>::keep>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
