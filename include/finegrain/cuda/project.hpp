// project: y = x W^T on the device, of a weight that is numbers or codes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded_linear.hpp"
#include "executor.hpp"
#include "linear.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class W>
inline constexpr bool is_coded_weight = std::is_base_of_v<coded_matrix, W>;

/// Numbers of scratch that a product with a weight (Out, In) needs where that is frozen in codes.
constexpr std::int64_t decoded_numbers(extent e, std::int64_t out, std::int64_t in) {
  return is_coded(e.frozen) && e.tokens > most_streamed ? decoded_rows(out, in) * in : 0;
}

/// y (+)= x W^T, of a matrix or of codes, which `numbers` is for.
template <class T, class W>
void project(basic_cuda<T> const& on, matrix<T const> x, W const& w, gradients mode, matrix<T> y,
             T* numbers) {
  if constexpr (is_coded_weight<W>) {
    check_rows(x, "what meets a weight in codes");
    coded_linear<T, W::number>::forward(on.context->blas, x, w, mode, y,
                                        {numbers, decoded_rows(w.rows, w.columns), w.columns},
                                        on.stream);
  } else {
    linear<T>::forward(on.context->blas, x, w, mode, y, on.stream);
  }
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
