// objective: a loss of a whole batch, as the pass that ends in it asks for it, some tokens at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "../plan/batch.hpp"
#include "../plan/place.hpp"
#include "loss.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The sum over some tokens, and `scale` times the gradient of the mean over all terms. Targets are
/// token ids (cross-entropy), or numbers (T, out) (squared error).
template <class X, class Targets>
struct objective {
  using S = typename X::scalar;
  Targets targets;
  double terms;                 // of the batch; 1 where the executor counts them,
  std::int64_t const* counted;  // and then there
  double scale;

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

}  // namespace finegrain::inline FINEGRAIN_ABI
