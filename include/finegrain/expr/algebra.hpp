// a | b, a + b, blend(a, b), residual(a), repeat<n>(a): expressions made of expressions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "node.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Two widths that must agree: the compiler prints both when they do not.
template <int Expected, int Produced>
concept same_width = Expected == Produced;

namespace detail {
template <Expr A, Expr B, class T>
struct weights_pair {
  weights<A, T> a;
  weights<B, T> b;
  template <class Bind>
  constexpr explicit weights_pair(Bind& bind)
      : a(bind_part<A, T>(bind)), b(bind_part<B, T>(bind)) {}
};
}  // namespace detail

/// a, then b on what a made: b(a(x)).
template <Expr A, Expr B>
struct then : node {
  static constexpr int in = in_width<A>(), out = out_width<B>();
  static_assert(same_width<in_width<B>(), out_width<A>()>,
                "left | right: the left stage must produce the width the right stage expects");

  template <class T>
  using weights = detail::weights_pair<A, B, T>;
};

/// a and b on the same input, added: a(x) + b(x).
template <Expr A, Expr B>
struct sum : node {
  static constexpr int in = in_width<A>(), out = out_width<A>();
  static_assert(same_width<in_width<A>(), in_width<B>()>,
                "left + right: both stages must expect the same width");
  static_assert(same_width<out_width<A>(), out_width<B>()>,
                "left + right: both stages must produce the same width");

  template <class T>
  using weights = detail::weights_pair<A, B, T>;
};

/// c_0 a(x) + c_1 b(x) with c = softmax(x mix^T), a token's own: a learned mix of two stages, as of
/// shared and routed experts [residual MoE].
template <Expr A, Expr B>
struct blended : node {
  static constexpr int in = in_width<A>(), out = out_width<A>();
  static_assert(same_width<in_width<A>(), in_width<B>()>,
                "blend(a, b): both stages must expect the same width");
  static_assert(same_width<out_width<A>(), out_width<B>()>,
                "blend(a, b): both stages must produce the same width");
  static_assert(in != ids, "blend(a, b): the mix is made from numbers, not from token ids");

  template <class T>
  struct weights {
    matrix<T> mix;  // (2, in)
    finegrain::weights<A, T> a;
    finegrain::weights<B, T> b;
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : mix(bind.matrix("mix", 2, in, role::projection)),
          a(bind_part<A, T>(bind)),
          b(bind_part<B, T>(bind)) {}
  };
};

/// x + a(x).
template <Expr A>
struct residual_of : node {
  static constexpr int in = in_width<A>(), out = out_width<A>();
  static_assert(same_width<in, out>, "residual(a): a must produce the width it expects");

  template <class T>
  struct weights {
    finegrain::weights<A, T> a;
    template <class Bind>
    constexpr explicit weights(Bind& bind) : a(bind_part<A, T>(bind)) {}
  };
};

/// a, N times in a row, each time with weights of its own: layers.0, layers.1, ...
template <int N, Expr A>
struct repeated : node {
  static_assert(N >= 1, "repeat<n>(a): n must be at least 1");
  static constexpr int in = in_width<A>(), out = out_width<A>();
  static_assert(same_width<in, out>, "repeat<n>(a): a must produce the width it expects");

  template <class T>
  struct weights {
    std::array<finegrain::weights<A, T>, N> layers;
    template <class Bind>
    constexpr explicit weights(Bind& bind) : weights(bind, std::make_integer_sequence<int, N>()) {}

   private:
    template <class Bind, int... At>
    constexpr weights(Bind& bind, std::integer_sequence<int, At...>) : layers{layer<At>(bind)...} {}
    template <int, class Bind>
    static constexpr finegrain::weights<A, T> layer(Bind& bind) {
      bind.enter_next("layers");
      auto bound = bind_part<A, T>(bind);
      bind.leave();
      return bound;
    }
  };
};

template <Expr A, Expr B>
constexpr then<A, B> operator|(A, B) {
  return {};
}
template <Expr A, Expr B>
constexpr sum<A, B> operator+(A, B) {
  return {};
}
template <Expr A, Expr B>
constexpr blended<A, B> blend(A, B) {
  return {};
}
template <Expr A>
constexpr residual_of<A> residual(A) {
  return {};
}
template <int N, Expr A>
constexpr repeated<N, A> repeat(A) {
  return {};
}

namespace detail {

template <Expr... E>
struct part_list {};
/// What a node is made of, in the order of the forward pass: a name, of what it stands for; a stage, of
/// nothing.
template <Expr E>
inline constexpr part_list<> parts = {};
template <Named E>
inline constexpr part_list<inner_t<E>> parts<E> = {};
template <Expr A, Expr B>
inline constexpr part_list<A, B> parts<then<A, B>> = {};
template <Expr A, Expr B>
inline constexpr part_list<A, B> parts<sum<A, B>> = {};
template <Expr A, Expr B>
inline constexpr part_list<A, B> parts<blended<A, B>> = {};
template <Expr A>
inline constexpr part_list<A> parts<residual_of<A>> = {};
template <int N, Expr A>
inline constexpr part_list<A> parts<repeated<N, A>> = {};

template <Expr E>
inline constexpr bool is_stage = std::is_same_v<decltype(parts<E>), part_list<> const>;

/// Calls f(part) for each.
template <Expr... E, class F>
constexpr void each_part(part_list<E...>, F&& f) {
  (f(E{}), ...);
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
