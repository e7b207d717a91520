// frozen: an expression's weights as an executor wants them when they no longer change.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "../expr/tied.hpp"
#include "plan.hpp"
#include "weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The formats of a frozen network: what experts and mlp are stored in, and the rest. Routers, norms
/// and what a stage of the user's own declares stay in the executor's numbers.
struct formats {
  format experts, rest;

  constexpr formats(format experts, format rest) : experts(experts), rest(rest) {}
  constexpr formats(format all) : formats(all, all) {}  // NOLINT(*-explicit*)
};

/// frozen_weights<X, F, E> stands in the place of weights<E, S const> in a forward pass: the same
/// members, or for stages that executor X can compute in F its own. It declares its memory
/// as plans do, by a constructor that takes arrays from an arena; fill(on, w) copies weights of
/// weights_size<E>() numbers into it. A stage that X has no other form for keeps them as they are,
/// and so works in every format. What is composed hands w on: it may be an array, S const*, or what
/// has w + offset, and w.numbers(count) where a stage's are wanted, to be there until the next are. A stage
/// whose fill takes what is no array asks for some of its own at a time, whole weights each.
template <class X, formats F, Expr E>
struct frozen_weights : weights<E, typename X::scalar const> {
  using S = typename X::scalar;

  constexpr explicit frozen_weights(arena& memory)
      : frozen_weights(memory.template take<S>(weights_size<E>())) {}
  void fill(X const& on, S const* w) const { place<X>::copy(on, w, weights_size<E>(), numbers_); }

 private:
  constexpr explicit frozen_weights(S* numbers)
      : weights<E, S const>(bind_weights<E, S const>(numbers)), numbers_(numbers) {}
  S* numbers_;
};

/// What decides, beside the expression, which bytes the arrays of executor X's frozen weights hold: for
/// files of them. An executor that specialises frozen_weights declares it too; without it, its networks
/// are not written. What the words cannot say of a stage of your own, its name must: a file has
/// describe(E) too, and the arrays' sizes.
///
///   executor()       X's name, and its type of numbers if it is one of several
///   text<F>()        how weights of format F stand there: the same words, the same bytes
///   prepare<F>()     throws what making them would throw on this machine
template <class X>
struct packed_form;
/// Executors that declare it.
template <class X>
concept Packing = requires {
  packed_form<X>::executor();
};

template <class X, formats F, Named E>
struct frozen_weights<X, F, E> : frozen_weights<X, F, detail::inner_t<E>> {
  using frozen_weights<X, F, detail::inner_t<E>>::frozen_weights;
};

namespace detail {

template <class S>
S* numbers(S* w, std::int64_t) {
  return w;
}
template <class W>
auto numbers(W const& w, std::int64_t count) {
  return w.numbers(count);
}

/// Fills the weights of A from w, or hands it on to its parts.
template <Expr A, class X, class To, class W>
void fill(X const& on, To const& to, W const& w) {
  if constexpr (requires { to.fill(on, w); })
    to.fill(on, w);
  else
    to.fill(on, numbers(w, weights_size<A>()));
}

/// Whether X has no other form for a stage.
template <class X, formats F, Expr E>
inline constexpr bool keeps_numbers =
    std::is_base_of_v<weights<E, typename X::scalar const>, frozen_weights<X, F, E>>;

template <class X, formats F, Expr A, Expr B>
struct frozen_pair {
  frozen_weights<X, F, A> a;
  frozen_weights<X, F, B> b;
  constexpr explicit frozen_pair(arena& memory) : a(memory), b(memory) {}
  template <class W>
  void fill(X const& on, W const& w) const {
    detail::fill<A>(on, a, w);
    detail::fill<B>(on, b, w + weights_size<A>());
  }
};

}  // namespace detail

template <class X, formats F, Expr A, Expr B>
struct frozen_weights<X, F, then<A, B>> : detail::frozen_pair<X, F, A, B> {
  using detail::frozen_pair<X, F, A, B>::frozen_pair;
};
template <class X, formats F, Expr A, Expr B>
struct frozen_weights<X, F, sum<A, B>> : detail::frozen_pair<X, F, A, B> {
  using detail::frozen_pair<X, F, A, B>::frozen_pair;
};
template <class X, formats F, Expr A, Expr B>
struct frozen_weights<X, F, blended<A, B>> : detail::frozen_pair<X, F, A, B> {
  using S = typename X::scalar;
  matrix<S> mix;  // (2, in)
  constexpr explicit frozen_weights(arena& memory)
      : detail::frozen_pair<X, F, A, B>(memory), mix(memory.matrix<S>(2, in_width<A>())) {}
  template <class W>
  void fill(X const& on, W const& w) const {
    constexpr std::int64_t places = weights_size<linear<in_width<A>(), 2>>();
    place<X>::copy(on, detail::numbers(w, places), mix.size(), mix.data);
    detail::frozen_pair<X, F, A, B>::fill(on, w + places);
  }
};
template <class X, formats F, Expr A>
struct frozen_weights<X, F, residual_of<A>> {
  frozen_weights<X, F, A> a;
  constexpr explicit frozen_weights(arena& memory) : a(memory) {}
  template <class W>
  void fill(X const& on, W const& w) const {
    detail::fill<A>(on, a, w);
  }
};
template <class X, formats F, int V, int D>
struct frozen_weights<X, F, detail::tied_embedding<V, D>> : frozen_weights<X, F, embedding<V, D>> {
  using frozen_weights<X, F, embedding<V, D>>::frozen_weights;
};
/// The table twice, as rows and as a product reads it; once where both are numbers as they were.
template <class X, formats F, int V, int D, Expr A>
struct frozen_weights<X, F, detail::tied_stages<V, D, A>> {
  using S = typename X::scalar;
  using first = then<detail::tied_embedding<V, D>, A>;
  using last = head<D, V>;
  static constexpr bool once =
      detail::keeps_numbers<X, F, embedding<V, D>> && detail::keeps_numbers<X, F, last>;
  frozen_weights<X, F, first> a;
  std::conditional_t<once, detail::tied_weight<S const>, frozen_weights<X, F, last>> b;
  constexpr explicit frozen_weights(arena& memory) : a(memory), b(of_head(memory, a)) {}
  template <class W>
  void fill(X const& on, W const& w) const {
    detail::fill<first>(on, a, w);
    if constexpr (!once) detail::fill<last>(on, b, w);  // the table is the first weight
  }

 private:
  static constexpr auto of_head(arena& memory, frozen_weights<X, F, first> const& a) {
    if constexpr (once)
      return detail::tied_weight<S const>{a.a.table};
    else
      return frozen_weights<X, F, last>(memory);
  }
};
template <class X, formats F, int N, Expr A>
struct frozen_weights<X, F, repeated<N, A>> {
  std::array<frozen_weights<X, F, A>, N> layers;
  constexpr explicit frozen_weights(arena& memory)
      : frozen_weights(memory, std::make_integer_sequence<int, N>()) {}
  template <class W>
  void fill(X const& on, W const& w) const {
    for (int i = 0; i < N; ++i)
      detail::fill<A>(on, layers[static_cast<std::size_t>(i)], w + i * weights_size<A>());
  }

 private:
  template <int... At>
  constexpr frozen_weights(arena& memory, std::integer_sequence<int, At...>)
      : layers{(static_cast<void>(At), frozen_weights<X, F, A>(memory))...} {}
};

}  // namespace finegrain::inline FINEGRAIN_ABI
