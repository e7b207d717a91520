// node, stage, named: what an expression is made of, and how it declares its weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "../base/matrix.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Base of every expression. Expressions are empty types: they say what to compute, hold nothing
/// and cost nothing. (Deriving from a type of this namespace also lets `|` and `+` be found.)
struct node {};

namespace detail {
template <class E>
constexpr bool holds_nothing() {
  static_assert(std::is_empty_v<E>,
                "a stage is an empty type: its numbers are template arguments or weights");
  return true;
}
}  // namespace detail

/// An expression: an empty type that derives from node. One that derives and is not empty does not
/// compile.
template <class E>
concept Expr = std::is_base_of_v<node, E> && detail::holds_nothing<E>();

/// What a weight is for: this decides how it starts and how it is trained.
enum class role {
  projection,      // a matrix: starts random, is trained, decays
  gain,            // a norm's factor: starts at 1, is trained, does not decay
  bias,            // what is added to a product: starts at 0, is trained, does not decay
  selection_bias,  // the router's: starts at 0, no gradient; a balance rule moves it
  table            // the experts of token ids: starts as random whole numbers, and stays
};

/// Whether a weight is a parameter: counted, and moved by the optimiser.
constexpr bool is_trained(role r) {
  return r == role::projection || r == role::gain || r == role::bias;
}

/// The width of an input that is token ids, not numbers: they come with the batch.
inline constexpr int ids = 0;

/// Base of a stage, In numbers a token in, Out out. A stage of your own derives from it, hides those of
/// the members below that it has of its own, and gets a plan for each executor.
template <int In, int Out = In>
struct stage : node {
  static constexpr int in = In, out = Out;
  static constexpr char const* name = "stage";

  /// The stage's weights, as views. The constructor names each, with its shape; a `Bind` gives
  /// the view: bind.matrix(name, rows, cols, role) or
  /// bind.stack("name.*.part", count, rows, cols, role, active), `active` of which a token uses.
  template <class T>
  struct weights {
    template <class Bind>
    constexpr explicit weights(Bind&) {}
  };

  /// Forward floating-point operations of a sequence beyond the two per token and active weight.
  static constexpr std::int64_t extra_flops(std::int64_t /*tokens*/) { return 0; }
  /// Whether a token multiplies the weights; an embedding only looks them up.
  static constexpr bool multiplies = true;
  /// Numbers that generation keeps for each token it has seen.
  static constexpr std::int64_t cache = 0;
  /// Of a stage that looks token ids up, how many there are: others are refused.
  static constexpr std::int64_t vocabulary = INT64_MAX;
};

/// Base of a stage that is a name for an expression: `static constexpr auto expr = ...`. Its name
/// is what a fused plan can be given for; without one, the expression's own plan serves.
struct named : node {};

namespace detail {

/// What a name stands for; any other node itself.
template <class E>
struct inner {
  using type = E;
};
template <class E>
requires std::is_base_of_v<named, E>
struct inner<E> {
  using type = std::remove_cvref_t<decltype(E::expr)>;
};
template <class E>
using inner_t = typename inner<E>::type;

}  // namespace detail

/// An expression that is a name for another.
template <class E>
concept Named = Expr<E> && std::is_base_of_v<named, E>;

/// Numbers a token in and out of an expression.
template <Expr E>
constexpr int in_width() {
  if constexpr (Named<E>)
    return in_width<detail::inner_t<E>>();
  else
    return E::in;
}
template <Expr E>
constexpr int out_width() {
  if constexpr (Named<E>)
    return out_width<detail::inner_t<E>>();
  else
    return E::out;
}

namespace detail {
template <class E, class T>
struct weights_of {
  using type = typename E::template weights<T>;
};
template <class E, class T>
requires(Named<E> && !requires { typename E::template weights<T>; }) struct weights_of<E, T>
    : weights_of<inner_t<E>, T> {
};
}  // namespace detail

/// The weights of an expression, as a struct of views on numbers of type T.
template <Expr E, class T>
using weights = typename detail::weights_of<E, T>::type;

/// The weights of a part, bound under the part's name: `layers.3` or `rmsnorm`. A name that
/// occurs again beside itself gets a number: `rmsnorm_2`.
template <Expr E, class T, class Bind>
constexpr weights<E, T> bind_part(Bind& bind) {
  if constexpr (requires { E::name; }) {
    bind.enter(E::name);
    weights<E, T> bound(bind);
    bind.leave();
    return bound;
  } else {  // the algebra's nodes, and a user's block: that is a name for readers, not for weights
    return weights<E, T>(bind);
  }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
