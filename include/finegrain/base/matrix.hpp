// matrix: a view of numbers that somebody else owns, row-major. Every public function takes these.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// An Eigen matrix, map, block or ref with its numbers in memory: recognised by its members, so
/// that no header of the library includes Eigen.
template <class M>
concept EigenDense = requires(M& m) {
  m.data();
  m.rows();
  m.cols();
  m.outerStride();
  m.innerStride();
  std::remove_cvref_t<M>::IsRowMajor;
};

template <class M>
inline constexpr bool eigen_row_major = bool(std::remove_cvref_t<M>::IsRowMajor);
template <class M>
using eigen_number = std::remove_pointer_t<decltype(std::declval<M&>().data())>;

/// An Eigen type of numbers, where T is a number; of integers, where T is one.
template <class M, class T>
concept EigenOf = EigenDense<M> &&
    (std::is_floating_point_v<eigen_number<M>> == std::is_floating_point_v<T>);

/// U is T without its const.
template <class U, class T>
concept WritableAs = std::is_same_v<T, U const> && !std::is_same_v<T, U>;

template <class M>
using pointed_at = std::remove_cv_t<std::remove_pointer_t<std::decay_t<M>>>;
template <class N, class T>
concept NumberNear = std::is_floating_point_v<N> || std::is_same_v<N, std::remove_cv_t<T>>;

/// Numbers in a row: a vector, span, array or pointer of T, or of some floating-point type.
template <class M, class T>
concept Unshaped =
    !EigenDense<M> && ((requires(M & m) {
                         m.data();
                         m.size();
                         requires NumberNear<pointed_at<decltype(m.data())>, T>;
                       }) ||
                       (std::is_pointer_v<std::decay_t<M>> && NumberNear<pointed_at<M>, T>));

/// An Eigen expression that is not in memory yet.
template <class M, class T>
concept EigenUnevaluated = !EigenDense<M> && requires(M & m) {
  m.rows();
  m.cols();
  m.eval();
  requires NumberNear<typename std::remove_cvref_t<M>::Scalar, T>;
};

/// An Eigen matrix that ends with the call it is given to, its numbers too: no map, block or ref.
template <class M>
concept EigenTemporary = !std::is_reference_v<M> && requires(std::remove_const_t<M> m) {
  m.conservativeResize(1, 1);
};

template <class...>
inline constexpr bool never = false;

/// Where an Eigen type's numbers begin; a sentence where they cannot be seen as T.
template <class T, class M>
constexpr T* begin_of(M&& m) {
  using number = eigen_number<M>;
  constexpr bool constant = std::is_const_v<number> && !std::is_const_v<T>;
  constexpr bool temporary = !std::is_const_v<T> && EigenTemporary<M>;
  static_assert(eigen_row_major<M>,
                "finegrain reads row-major matrices: give the Eigen type the option "
                "Eigen::RowMajor (a column-major one would have to be copied)");
  static_assert(std::is_same_v<number const, T const>,
                "an Eigen matrix of other numbers than T cannot be seen as matrix<T>");
  static_assert(!constant, "a const Eigen matrix can only be seen as matrix<T const>");
  static_assert(!temporary, "what is written to a temporary Eigen matrix would be lost");
  if constexpr (std::is_convertible_v<number*, T*>)
    return m.data();
  else
    return nullptr;
}

}  // namespace detail

/// rows x cols numbers at data, each row contiguous, rows `stride` numbers apart. It owns nothing.
template <class T>
struct matrix {
  T* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  constexpr matrix() = default;
  FINEGRAIN_HD constexpr matrix(T* data, std::int64_t rows, std::int64_t cols)
      : matrix(data, rows, cols, cols) {}
  FINEGRAIN_HD constexpr matrix(T* data, std::int64_t rows, std::int64_t cols, std::int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}

  /// A read-only view of a writable one.
  template <detail::WritableAs<T> U>
  FINEGRAIN_HD constexpr matrix(matrix<U> m)
      : matrix(m.data, m.rows, m.cols, m.stride) {}  // NOLINT

  /// A view of an Eigen matrix, map, block or ref with row-major storage. Nothing is copied.
  template <detail::EigenOf<T> M>
  constexpr matrix(M&& m)  // NOLINT
      : matrix(detail::begin_of<T>(std::forward<M>(m)), m.rows(), m.cols(), m.outerStride()) {
    if (m.innerStride() != 1 && m.cols() > 1)
      throw invalid_argument(
          "the columns of this Eigen view are %lld numbers apart; finegrain "
          "needs rows that are contiguous",
          detail::shown(m.innerStride()));
  }

  // What is given in place of a view, and is none.
  template <detail::Unshaped<T> M>
  constexpr matrix(M&&) {  // NOLINT
    static_assert(detail::never<M>,
                  "how many rows have these numbers? A view is finegrain::matrix<float>(pointer, "
                  "rows, columns), or an Eigen matrix");
  }
  template <detail::EigenUnevaluated<T> M>
  constexpr matrix(M&&) {  // NOLINT
    static_assert(
        detail::never<M>,
        "this Eigen expression has no numbers in memory yet: give it a name and a type, or "
        "add .eval() where nothing reads it after the call");
  }
  constexpr matrix(matrix const&) = default;
  constexpr matrix& operator=(matrix const&) & = default;
  template <class M>
  constexpr void operator=(M&&) && {
    static_assert(detail::never<M>,
                  "this would change a view that is thrown away, not the numbers that it shows: "
                  "copy them, for instance through an Eigen::Map");
  }

  FINEGRAIN_HD constexpr T* row(std::int64_t r) const { return data + r * stride; }
  FINEGRAIN_HD constexpr T& operator()(std::int64_t r, std::int64_t c) const {
    return data[r * stride + c];
  }
  FINEGRAIN_HD constexpr matrix middle_rows(std::int64_t first, std::int64_t count) const {
    return {data + first * stride, count, cols, stride};
  }
  FINEGRAIN_HD constexpr matrix middle_cols(std::int64_t first, std::int64_t count) const {
    return {data + first, rows, count, stride};
  }
  FINEGRAIN_HD constexpr std::int64_t size() const { return rows * cols; }
};

/// `count` matrices of one shape, one after the other: the weights of a layer's experts.
template <class T>
struct stack {
  T* data = nullptr;
  std::int64_t count = 0, rows = 0, cols = 0;

  constexpr stack() = default;
  constexpr stack(T* data, std::int64_t count, std::int64_t rows, std::int64_t cols)
      : data(data), count(count), rows(rows), cols(cols) {}
  template <detail::WritableAs<T> U>
  constexpr stack(stack<U> s) : stack(s.data, s.count, s.rows, s.cols) {}  // NOLINT

  constexpr matrix<T> operator[](std::int64_t i) const {
    return {data + i * rows * cols, rows, cols};
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
