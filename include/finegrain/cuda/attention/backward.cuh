// Attention on the device, backward: one kernel for dq, by rows of queries, then one for dk and dv,
// by rows of keys. Both make the weights again from log_weight; no sum leaves its block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "keys_backward.cuh"
#include "queries_backward.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

template <class Heads, class T>
void launch_backward(backward_arguments<T> const& a, CUstream_st* stream) {
  using shape = backward_shape<T, Heads, false>;  // has the same rows as that of Hopper
  static_assert(shape::bytes <= small_memory);
  int const bytes = on_hopper() ? backward_shape<T, Heads, in_pairs<T>>::bytes : shape::bytes;
  allow_memory(queries_backward_kernel<T, Heads>, bytes);
  allow_memory(keys_backward_kernel<T, Heads>, bytes);
  auto const tiles = static_cast<unsigned>(ceil_div(a.where.tokens, shape::rows));
  dim3 const by_queries(static_cast<unsigned>(a.shape.query), tiles);
  dim3 const by_keys(static_cast<unsigned>(a.shape.key_value), tiles, shape::slices);
  auto const memory = static_cast<std::size_t>(bytes);
  queries_backward_kernel<T, Heads><<<by_queries, shape::threads, memory, stream>>>(a);
  check_launch("attention's backward of queries");
  keys_backward_kernel<T, Heads><<<by_keys, shape::threads, memory, stream>>>(a);
  check_launch("attention's backward of keys");
}

}  // namespace flash

template <class T>
void attend<T>::backward(heads shape, places where, matrix<T const> q, matrix<T const> k,
                         matrix<T const> v, matrix<T const> mixed, float const* log_weight,
                         matrix<T const> dmixed, matrix<T> dq, matrix<T> dk, matrix<T> dv,
                         float* delta, CUstream_st* stream) {
  if (where.tokens == 0) return;
  flash::backward_arguments<T> const a{shape.with_scale(), where, q,  k,  v, mixed, dmixed,
                                       log_weight,         delta, dq, dk, dv};
  if (shape.dim <= 64)
    flash::launch_backward<flash::alike<64>>(a, stream);
  else if (shape.dim <= 128)
    flash::launch_backward<flash::alike<128>>(a, stream);
  else
    flash::launch_backward<flash::alike<256>>(a, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
