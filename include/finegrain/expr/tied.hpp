// tied(embedding, a): embedding | a | head, where the head's weight is the embedding's table.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// The rows of a tied table. Backward comes after the head's, and adds to the gradient that the head
/// has made of the table, whether that overwrote or added.
template <int V, int D>
struct tied_embedding : embedding<V, D> {};

/// A weight (V, D) that is another stage's.
template <class T>
struct tied_weight {
  matrix<T> weight;
};

/// What `tied` makes.
template <int V, int D, Expr A>
struct tied_stages : named {
  static_assert(same_width<in_width<A>(), D>,
                "tied(embedding, a): a must expect the width that the embedding produces");
  static_assert(same_width<out_width<A>(), D>,
                "tied(embedding, a): a must produce the embedding's width, which the head expects");
  static constexpr auto expr = tied_embedding<V, D>{} | A{} | head<D, V>{};

  /// Those of the expression, but that the head's is a view of the table.
  template <class T>
  struct weights {
    finegrain::weights<then<tied_embedding<V, D>, A>, T> a;
    tied_weight<T> b;
    template <class Bind>
    constexpr explicit weights(Bind& bind) : a(bind), b{a.a.table} {}
  };
};

}  // namespace detail

/// x = row `id` of a table (V, D) for each token id, then logits a(x) table^T.
template <int V, int D, Expr A>
constexpr detail::tied_stages<V, D, A> tied(embedding<V, D>, A) {
  return {};
}
template <Expr E, Expr A>
constexpr auto tied(E, A) {
  static_assert(detail::never<E>,
                "tied(embedding, a): the first stage must be an embedding, whose table is then the "
                "head's weight too");
}
template <Expr... Parts>
constexpr auto tied(Parts...) {
  static_assert(
      detail::never<Parts...>,
      "tied(embedding, a): it takes the embedding and what stands between it and the head; "
      "the head is its own");
}

}  // namespace finegrain::inline FINEGRAIN_ABI
