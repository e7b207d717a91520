// Plans of the algebra itself, for every executor: a | b, a + b, residual(a), repeat<n>(a), names.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "plan.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Scratch of plans that run one after the other: the memory of the largest.
template <class... Parts>
struct in_turn {
  constexpr in_turn(arena& memory, extent e) {
    auto const mark = memory.used();
    ((static_cast<void>(Parts(memory, e)), memory.rewind(mark)), ...);
  }
};

/// Marks the plans below: what they compute is put together from their parts' plans. A fused plan
/// does not carry it.
struct composed {};

}  // namespace detail

/// y += x, row by row: the composed residual.
template <class X, class S>
void add_rows(X const& on, matrix<S const> x, matrix<S> y) {
  detail::for_rows(on, y.rows, [&](std::int64_t t, int) {
    S const* const from = x.row(t);
    S* const to = y.row(t);
    for (std::int64_t c = 0; c < y.cols; ++c) to[c] += from[c];
  });
}

/// Rows that are wanted, in rising order, become the first ones.
template <class X, class S>
void bring_forward(X const& on, std::span<std::int64_t const> wanted, matrix<S> rows) {
  for (std::int64_t i = 0; i < std::ssize(wanted); ++i)
    if (std::int64_t const from = wanted[static_cast<std::size_t>(i)]; from != i)
      place<X>::copy(on, rows.row(from), rows.cols, rows.row(i));
}

/// A name without a plan of its own: what it stands for.
template <class X, Named E>
struct plan<X, E> : plan<X, detail::inner_t<E>> {};

namespace detail {

/// Whether X runs E by the plans of its parts; a name, by its expression's.
template <class X, Expr E>
inline constexpr bool composes = std::is_base_of_v<composed, plan<X, E>>;
template <class X, Named E>
inline constexpr bool composes<X, E> = std::is_base_of_v<plan<X, inner_t<E>>, plan<X, E>>;

/// Memory of two plans, one behind the other, `Width` numbers of S a token between them, of which
/// `Kept` are kept.
template <class S, class First, class Second, int Width, int Kept = Width>
struct then_memory {
  struct saved {
    typename First::saved a;
    matrix<S> middle;  // (T, Kept)
    typename Second::saved b;
    constexpr saved(arena& memory, extent e)
        : a(memory, e), middle(memory.matrix<S>(e.tokens, Kept)), b(memory, e) {}
  };
  struct scratch {
    constexpr scratch(arena& memory, extent e) {
      if (e.training) memory.matrix<S>(e.tokens, Width);  // the gradient of middle
      in_turn<typename First::scratch, typename Second::scratch>(memory, e);
    }
  };
};

}  // namespace detail

template <class X, Expr A, Expr B>
struct plan<X, then<A, B>> : detail::composed {
  using S = typename X::scalar;
  using first = plan<X, A>;
  using second = plan<X, B>;
  static constexpr int width = out_width<A>();
  static_assert(!InPlace<second> || width == out_width<B>(),
                "a plan that is in_place must make as many numbers as it is given");
  using memory = detail::then_memory<S, first, second, width, InPlace<second> ? 0 : width>;
  using saved = typename memory::saved;
  using scratch = typename memory::scratch;
  static constexpr bool picks_rows =
      InPlace<second> ? PicksRows<first> : AnyRows<second> || PicksRows<second>;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    pass<X> all = p;
    all.wanted = {};
    if constexpr (InPlace<second>) {
      first::forward(p, w.a, s.a, x, y);
      second::forward(p, w.b, s.b, y, y);
    } else if constexpr (AnyRows<second>) {
      first::forward(all, w.a, s.a, x, s.middle);
      bring_forward(p.on, p.wanted, s.middle);
      second::forward(all, w.b, s.b, s.middle.middle_rows(0, y.rows), y);
    } else {
      first::forward(all, w.a, s.a, x, s.middle);
      second::forward(p, w.b, s.b, s.middle, y);
    }
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    matrix<S> const dmiddle = p.scratch.template matrix<S>(p.extent.tokens, width);
    second::backward(p, w.b, s.b, s.middle, dy, dw.b, dmiddle);
    first::backward(p, w.a, s.a, x, dmiddle, dw.a, dx);
  }
};

template <class X, Expr A, Expr B>
struct plan<X, sum<A, B>> : detail::composed {
  using S = typename X::scalar;
  using first = plan<X, A>;
  using second = plan<X, B>;

  struct saved {
    typename first::saved a;
    typename second::saved b;
    constexpr saved(arena& memory, extent e) : a(memory, e), b(memory, e) {}
  };
  struct scratch {
    constexpr scratch(arena& memory, extent e) {
      memory.matrix<S>(e.tokens, std::max(out_width<A>(), in_width<A>()));  // b's y, then b's dx
      detail::in_turn<typename first::scratch, typename second::scratch>(memory, e);
    }
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    matrix<S> const other = p.scratch.template matrix<S>(y.rows, y.cols);
    first::forward(p, w.a, s.a, x, y);
    second::forward(p, w.b, s.b, x, other);
    add_rows(p.on, matrix<S const>(other), y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    matrix<S> const other = p.scratch.template matrix<S>(dx.rows, dx.cols);
    first::backward(p, w.a, s.a, x, dy, dw.a, dx);
    second::backward(p, w.b, s.b, x, dy, dw.b, other);
    add_rows(p.on, matrix<S const>(other), dx);
  }
};

template <class X, Expr A>
struct plan<X, residual_of<A>> : detail::composed {
  using S = typename X::scalar;
  using inside = plan<X, A>;

  struct saved {
    typename inside::saved a;
    constexpr saved(arena& memory, extent e) : a(memory, e) {}
  };
  using scratch = typename inside::scratch;

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    inside::forward(p, w.a, s.a, x, y);
    add_rows(p.on, x, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    inside::backward(p, w.a, s.a, x, dy, dw.a, dx);
    add_rows(p.on, dy, dx);
  }
};

/// One body of code, N sets of weights. Training saves every layer; inference needs one layer's
/// memory and two streams, whatever N.
template <class X, int N, Expr A>
struct plan<X, repeated<N, A>> : detail::composed {
  using S = typename X::scalar;
  using layer = plan<X, A>;
  static constexpr int width = in_width<A>();

  struct saved {
    arena layers;                      // training: one saved after the other
    std::array<matrix<S>, 2> streams;  // inference: outputs of the layers but the last, in turn
    finegrain::extent extent;
    constexpr saved(arena& memory, finegrain::extent e)
        : layers(cut(memory, e)),
          streams{memory.matrix<S>(e.training ? 0 : e.tokens, width),
                  memory.matrix<S>(e.training ? 0 : e.tokens, width)},
          extent(e) {}

   private:
    static constexpr arena cut(arena& memory, finegrain::extent e) {
      std::int64_t const one = step(e);
      std::int64_t const bytes = e.training ? N * one : one;
      return arena(memory.take<std::byte>(bytes), bytes);
    }
  };
  struct scratch {
    constexpr scratch(arena& memory, extent e) {
      if (e.training) {  // gradients of the layers' inputs, in turn
        memory.matrix<S>(e.tokens, width);
        memory.matrix<S>(e.tokens, width);
      }
      typename layer::scratch(memory, e);
    }
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    for (std::size_t i = 0; i < N; ++i) {
      auto [memory, output] = at(s, i);
      matrix<S> const to = i + 1 < N ? output : y;
      layer::forward(p, w.layers[i], memory, x, to);
      x = to;
    }
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    std::array<matrix<S>, 2> const gradient{p.scratch.template matrix<S>(p.extent.tokens, width),
                                            p.scratch.template matrix<S>(p.extent.tokens, width)};
    for (std::size_t i = N; i-- > 0;) {
      matrix<S const> const input = i > 0 ? matrix<S const>(at(s, i - 1).second) : x;
      matrix<S> const to = i > 0 ? gradient[i % 2] : dx;
      layer::backward(p, w.layers[i], at(s, i).first, input, dy, dw.layers[i], to);
      dy = to;
    }
  }

 private:
  /// Bytes of one layer: what it saves and, in training, its output.
  static constexpr std::int64_t step(extent e) {
    arena counting;
    static_cast<void>(typename layer::saved(counting, e));
    if (e.training) counting.matrix<S>(e.tokens, width);
    return counting.used();
  }
  /// The saved memory and the output of layer i.
  static std::pair<typename layer::saved, matrix<S>> at(saved const& s, std::size_t i) {
    arena memory = s.layers;
    if (s.extent.training)
      memory.template take<std::byte>(static_cast<std::int64_t>(i) * step(s.extent));
    typename layer::saved const mine(memory, s.extent);
    return {mine, s.extent.training ? memory.template matrix<S>(s.extent.tokens, width)
                                    : s.streams[i % 2]};
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
