// basic_reference: the executor whose plans are the specification. Plain loops, any scalar.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "../plan/plan.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Computes every stage as its formula reads, one number after the other. Other executors are
/// tested against it; in double it is what gradients are checked with.
template <class T>
struct basic_reference {
  using scalar = T;
  parallel threads{};

  /// The same with exact products: all of them are.
  basic_reference const& exact() const { return *this; }
};

/// What the functions below share: views as parameters, and formulas on single numbers and rows.
namespace spec {

// The scalar of a call follows from its executor alone, so any view that converts will do.
template <class T>
using input = std::type_identity_t<matrix<T const>>;
template <class T>
using output = std::type_identity_t<matrix<T>>;

template <class T>
void clear(matrix<T> m) {
  for (std::int64_t r = 0; r < m.rows; ++r) std::fill_n(m.row(r), m.cols, T(0));
}
/// Makes a gradient ready to be added to.
template <class... T>
void begin(gradients mode, matrix<T>... gradient) {
  if (mode == gradients::overwrite) (clear(gradient), ...);
}

template <class T>
T dot(T const* a, T const* b, std::int64_t n) {
  T total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += a[i] * b[i];
  return total;
}
/// to += factor * from.
template <class T>
void add(std::type_identity_t<T> factor, T const* from, T* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

}  // namespace spec

}  // namespace finegrain::inline FINEGRAIN_ABI
