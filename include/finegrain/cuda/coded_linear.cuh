// coded_linear: codes in the load of a product for few tokens; made numbers for cuBLAS for many.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded_linear.hpp"
#include "decode/dense.cuh"
#include "linear.cuh"
#include "pack.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// What a warp makes numbers of: 16 rows, and so many of their columns.
template <class W>
struct decoded_part {
  static constexpr int steps = 4, columns = steps * step;
  using ring_type = ring<W, 1, steps>;
  static constexpr int bytes = warps * ring_type::warp_bytes;
};

/// to (end - first, columns) = rows first ... end of a weight.
template <class T, class W>
__global__ void __launch_bounds__(threads)
    decode_rows_kernel(__grid_constant__ family_weights<W> const weights, int first, int end,
                       int rows, int columns, T* to) {
  using some = decoded_part<W>;
  extern __shared__ uint4 memory[];
  int const across = ceil_div(columns, some::columns);
  int const index = static_cast<int>(blockIdx.x * warps + threadIdx.x / 32);
  int const row = first + index / across * 16, begin = index % across * some::columns;
  if (row >= end) return;
  int const lane = static_cast<int>(threadIdx.x) % 32, limit = min(begin + some::columns, columns);
  lane_weights<W, false> const from(weights, 0, row, rows, columns);
  typename some::ring_type codes(memory);
  auto const issue = [&](int k) {
    if (k < limit) codes.issue(0, from.low + from.before(k), from.high + from.before(k));
    codes.next();
  };
  for (int i = 0; i < some::steps; ++i) issue(begin + i * step);
  for (int k = begin; k < limit; k += step) {
    float scale[2][2];
    if constexpr (W::scale != scales::inside) {
      from.scales_of(weights, k, scale[0]);
      scale[1][0] = scale[0][0], scale[1][1] = scale[0][1];
    }
    codes.wait();
    std::uint32_t a[4][4];
    codes.take(a, 0);
    if constexpr (W::scale == scales::inside) codes.take_scales(scale, 0);
    issue(limit);
    // Of row g + 8 low a lane has 8 columns in a[2 half] and a[2 half + 1].
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        int const r = row + lane / 4 + 8 * low, column = k + lane_column<W>() + half * W::further;
        if (r >= end || column >= columns) continue;
        auto const number = [&](std::uint32_t pair) {
          float2 const two = unpack<T>(pair);
          return pack<T>(scale[half][low] * two.x, scale[half][low] * two.y);
        };
        *reinterpret_cast<uint4*>(to + std::int64_t{r - first} * columns + column) = {
            number(a[2 * half][low]), number(a[2 * half][low + 2]), number(a[2 * half + 1][low]),
            number(a[2 * half + 1][low + 2])};
      }
  }
}

/// Rows first ... of a weight as numbers, as many as `to` has.
template <class T, class W>
void decode_rows(family_weights<W> const& weights, coded_matrix const& m, std::int64_t first,
                 matrix<T> to, CUstream_st* stream) {
  using some = decoded_part<W>;
  auto const rows = static_cast<int>(m.rows), columns = static_cast<int>(m.columns);
  std::int64_t const parts = (to.rows + 15) / 16 * (ceil_div(columns, some::columns));
  decode_rows_kernel<T, W>
      <<<static_cast<unsigned>(ceil_div(parts, warps)), threads, some::bytes, stream>>>(
          weights, static_cast<int>(first), static_cast<int>(first + to.rows), rows, columns,
          to.data);
  check_launch("coded_linear: decoding");
}

}  // namespace decode

template <class T, format F>
void coded_linear<T, F>::pack(T const* weight, coded_matrix const& to, CUstream_st* stream) {
  packing::pack<F>(weight, 1, static_cast<int>(to.rows), static_cast<int>(to.columns), to.codes,
                   to.scales, stream);
}

template <class T, format F>
void coded_linear<T, F>::forward(blas const& library, matrix<T const> x, coded_matrix const& weight,
                                 gradients mode, matrix<T> y, matrix<T> numbers,
                                 CUstream_st* stream) {
  decode::family_weights<decode::coded<F>> w{};
  w.down = weight.codes, w.down_scales = weight.scales;
  if (x.rows <= most_streamed) {
    return decode::dense<false, T, decode::coded<F>>({.weights = w,
                                                      .tokens = static_cast<int>(x.rows),
                                                      .rows = static_cast<int>(weight.rows),
                                                      .columns = static_cast<int>(weight.columns),
                                                      .x = x.data,
                                                      .x_stride = x.stride,
                                                      .y = y.data,
                                                      .y_stride = y.stride,
                                                      .mode = mode},
                                                     stream, "coded_linear::forward");
  }
  for (std::int64_t first = 0; first < weight.rows; first += numbers.rows) {
    matrix<T> const part = numbers.middle_rows(0, at_most(numbers.rows, weight.rows - first));
    decode::decode_rows(w, weight, first, part, stream);
    linear<T>::forward(library, x, part, mode, y.middle_cols(first, part.rows), stream);
  }
}

template <class T, format F>
using coded_linear_code = code<&coded_linear<T, F>::pack, &coded_linear<T, F>::forward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
