// Kernels over numbers and rows: sums, conversions, the blend of two outputs, columns of heads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/matrix.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Writes 1 to `others` where not all of so many numbers are finite, else 0.
template <class T>
struct finite_numbers {
  static void look(T const* from, std::int64_t count, std::int32_t* others, CUstream_st* stream);
};

template <class T>
struct elementwise {
  /// y += x.
  static void add(matrix<T const> x, matrix<T> y, CUstream_st* stream);
  /// y = factor x.
  static void scale(matrix<T const> x, float factor, matrix<T> y, CUstream_st* stream);
  /// T from f32, to the nearest, and back.
  static void narrow(float const* from, T* to, std::int64_t count, CUstream_st* stream);
  static void widen(T const* from, float* to, std::int64_t count, CUstream_st* stream);
  /// The same where `from` is not what rounding made of `to`: to the nearest, or by chance up or down.
  static void follow(T const* from, float* to, std::int64_t count, bool by_chance,
                     CUstream_st* stream);

  /// y = c a + (1 - c) b with c = logistic(mix[t][0] - mix[t][1]); leaves c and 1 - c in mix, which
  /// is (T, 2).
  static void blend(float* mix, matrix<T const> a, matrix<T const> b, matrix<T> y,
                    CUstream_st* stream);
  /// Of the blend: da = c dy, db = (1 - c) dy, and dmix (T, 2) = +- c (1 - c) (dy . (a - b)).
  /// da or db may be dy.
  static void blend_backward(float const* mix, matrix<T const> a, matrix<T const> b,
                             matrix<T const> dy, matrix<T> da, matrix<T> db, T* dmix,
                             CUstream_st* stream);
};

/// Some of the columns of several heads. Rows begin on 16-byte borders, and all that counts columns
/// is a multiple of 8.
template <class T>
struct heads_columns {
  /// Of each row and each of `count` heads, `columns` numbers: from column h * from_step of `from`
  /// to column h * to_step of `to`.
  static void copy(int count, int columns, matrix<T const> from, int from_step, matrix<T> to,
                   int to_step, CUstream_st* stream);
  /// The sum over heads of what is at column h * from_step, to the columns of `to`.
  static void sum(int count, matrix<T const> from, int from_step, matrix<T> to,
                  CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
