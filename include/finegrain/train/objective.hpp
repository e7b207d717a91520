// objective: a loss of a whole batch, as the pass that ends in it asks for it, some tokens at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../model/check.hpp"
#include "../plan/batch.hpp"
#include "../plan/place.hpp"
#include "loss.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What a mean over so many terms divides by: of none it is 0, not NaN.
inline double terms_of_mean(std::int64_t terms) {
  return static_cast<double>(std::max<std::int64_t>(terms, 1));
}

/// The sum over some tokens, and `scale` times the gradient of the mean over all terms. Targets are
/// token ids (cross-entropy), or numbers (T, out) (squared error).
template <class X, class Targets>
struct objective {
  using S = typename X::scalar;
  Targets targets;
  double terms;                 // of the batch; 1 where the executor counts them,
  std::int64_t const* counted;  // and then there
  double scale;

  /// The terms, wherever they are. Waits for an executor that counts them.
  double terms_on(X const& on) const {
    return counted ? terms_of_mean(place<X>::read(on, counted)) : terms;
  }
  double operator()(X const& on, std::int64_t first, matrix<S const> y, matrix<S> dy) const {
    if constexpr (std::is_same_v<Targets, matrix<S const>>) {
      return squared_error(on, y, targets.middle_rows(first, y.rows), scale / terms, dy);
    } else {
      auto const mine =
          targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(y.rows));
      if constexpr (place<X>::here)
        return cross_entropy(on, y, mine, scale / terms, dy);
      else
        return cross_entropy(on, y, mine, scale / terms, counted, dy);
    }
  }
};

/// The cross-entropy of a batch's token ids among `classes`, copied to where the executor reads them
/// if it does not read them where they are. Throws invalid_argument as count_targets does.
template <class X>
objective<X, id_list> cross_entropy_objective(
    X const& on, id_list targets, std::int64_t tokens, int classes, double scale,
    typename place<X>::template buffer<std::int32_t>& copied) {
  if constexpr (!place<X>::here) {
    check_targets(targets, tokens);
    if (auto const* const counted = terms_on(on, targets)) return {targets, 1, counted, scale};
  }
  double const terms = terms_of_mean(count_targets(targets, tokens, classes));
  return {place<X>::list(on, copied, targets), terms, nullptr, scale};
}
/// The squared error of a batch's numbers. Throws invalid_argument when they have another shape.
template <class X, class S = typename X::scalar>
objective<X, matrix<S const>> squared_error_objective(matrix<S const> targets, std::int64_t tokens,
                                                      int width, double scale) {
  detail::check_shape("the matrix of targets", targets, tokens, width);
  return {targets, terms_of_mean(targets.size()), nullptr, scale};
}

}  // namespace finegrain::inline FINEGRAIN_ABI
