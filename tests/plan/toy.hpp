// An executor with two small stages, so that the plans of the algebra can be tested by themselves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/plan/compose.hpp>
#include <finegrain/plan/weights.hpp>

namespace toy {

namespace fg = finegrain;

struct executor {
  using scalar = double;
  fg::parallel threads{};
};

/// y = gain * x, a gain a channel: one weight, nothing saved.
template <int D>
struct scale : fg::stage<D> {
  static constexpr char const* name = "scale";
  template <class T>
  struct weights {
    fg::matrix<T> gain;
    template <class Bind>
    constexpr explicit weights(Bind& bind) : gain(bind.matrix("gain", 1, D, fg::role::gain)) {}
  };
};

/// y = x * x: no weights, and a number a token that it saves and checks in backward.
template <int D>
struct square : fg::stage<D> {
  static constexpr char const* name = "square";
};

}  // namespace toy

template <int D>
struct finegrain::plan<toy::executor, toy::scale<D>> {
  using saved = finegrain::nothing;
  using scratch = finegrain::nothing;
  template <class W>
  static void forward(pass<toy::executor>, W const& w, saved const&, matrix<double const> x,
                      matrix<double> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (std::int64_t c = 0; c < D; ++c) y(t, c) = w.gain(0, c) * x(t, c);
  }
  template <class W, class V>
  static void backward(pass<toy::executor> p, W const& w, saved const&, matrix<double const> x,
                       matrix<double const> dy, V const& dw, matrix<double> dx) {
    for (std::int64_t c = 0; c < D; ++c) {
      double total = 0;
      for (std::int64_t t = 0; t < x.rows; ++t) {
        total += dy(t, c) * x(t, c);
        dx(t, c) = dy(t, c) * w.gain(0, c);
      }
      dw.gain(0, c) = total + (p.gradients == gradients::accumulate ? dw.gain(0, c) : 0.0);
    }
  }
};

template <int D>
struct finegrain::plan<toy::executor, toy::square<D>> {
  struct saved {
    double* first;  // (T)
    constexpr saved(arena& memory, extent e) : first(memory.take<double>(e.tokens)) {}
  };
  struct scratch {
    double* row;  // (D)
    constexpr scratch(arena& memory, extent) : row(memory.take<double>(D)) {}
  };
  template <class W>
  static void forward(pass<toy::executor> p, W const&, saved const& s, matrix<double const> x,
                      matrix<double> y) {
    scratch const t(p.scratch, p.extent);
    for (std::int64_t r = 0; r < x.rows; ++r) {
      s.first[r] = x(r, 0);
      for (std::int64_t c = 0; c < D; ++c) t.row[c] = x(r, c) * x(r, c);
      for (std::int64_t c = 0; c < D; ++c) y(r, c) = t.row[c];
    }
  }
  template <class W, class V>
  static void backward(pass<toy::executor>, W const&, saved const& s, matrix<double const> x,
                       matrix<double const> dy, V const&, matrix<double> dx) {
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t c = 0; c < D; ++c)
        dx(r, c) = 2 * (c == 0 ? s.first[r] : x(r, c)) * dy(r, c);
  }
};
