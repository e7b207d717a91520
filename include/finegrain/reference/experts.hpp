// An expert: down(act(gate(x)) * up(x)). A dense feed-forward block is one, wide, for every token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "linear.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace spec {

/// SiLU: z sigmoid(z); GELU in its tanh form; ReLU: z above 0, else 0.
template <class T>
T activate(activation act, T z) {
  if (act == activation::reglu) return z * T(z > 0);
  if (act == activation::swiglu) return z * detail::logistic(z);
  T const a = T(gelu_linear), b = T(gelu_cubic);
  return z * (1 + math::tanh(a * (z + b * z * z * z))) / 2;
}
template <class T>
T activate_derivative(activation act, T z) {
  if (act == activation::reglu) return T(z > 0);
  if (act == activation::swiglu) return detail::logistic(z) * (1 + z * (1 - detail::logistic(z)));
  T const a = T(gelu_linear), b = T(gelu_cubic);
  T const u = math::tanh(a * (z + b * z * z * z));
  return (1 + u) / 2 + z * (1 - u * u) / 2 * a * (1 + 3 * b * z * z);
}

/// act(gate) * up, and its derivatives by both: what lies beyond the limit has none. What is not a
/// number stays.
template <class T>
struct gated {
  T value, by_gate, by_up;
};
template <class T>
gated<T> gated_at(glu act, T gate, T up) {
  T const most(act.limit);
  bool const high = act.limited() && gate > most;
  bool const far = act.limited() && (up > most || up < -most);
  if (high) gate = most;
  if (far) up = up > 0 ? most : -most;
  T const a = activate(act.kind, gate), slope = activate_derivative(act.kind, gate);
  return {a * up, high ? T(0) : up * slope, far ? T(0) : a};
}

/// One expert of a stack's R.
template <class T>
struct one_expert {
  matrix<T> gate, up;  // (F, D)
  matrix<T> down;      // (D, F)
};
template <class T, class W>
one_expert<T> expert_of(W const& w, std::int64_t i) {
  return {w.gate[i], w.up[i], w.down[i]};
}

}  // namespace spec

/// hidden (T, F) = act(gate) * up.
template <class T>
void gated_forward(basic_reference<T> const&, glu act, spec::input<T> gate, spec::input<T> up,
                   spec::output<T> hidden) {
  for (std::int64_t t = 0; t < gate.rows; ++t)
    for (std::int64_t f = 0; f < gate.cols; ++f)
      hidden(t, f) = spec::gated_at(act, gate(t, f), up(t, f)).value;
}
template <class T>
void gated_backward(basic_reference<T> const&, glu act, spec::input<T> gate, spec::input<T> up,
                    spec::input<T> dhidden, spec::output<T> dgate, spec::output<T> dup) {
  for (std::int64_t t = 0; t < gate.rows; ++t)
    for (std::int64_t f = 0; f < gate.cols; ++f) {
      auto const at = spec::gated_at(act, gate(t, f), up(t, f));
      dgate(t, f) = dhidden(t, f) * at.by_gate;
      dup(t, f) = dhidden(t, f) * at.by_up;
    }
}

/// What forward leaves for backward: the gate's and up's outputs.
template <class T>
struct expert_saved {
  matrix<T> gate, up;  // (T, F)
  constexpr expert_saved(arena& memory, std::int64_t rows, std::int64_t width)
      : gate(memory.matrix<T>(rows, width)), up(memory.matrix<T>(rows, width)) {}

  constexpr expert_saved row(std::int64_t r) const {
    return {gate.middle_rows(r, 1), up.middle_rows(r, 1)};
  }

 private:
  constexpr expert_saved(matrix<T> gate, matrix<T> up) : gate(gate), up(up) {}
};

template <class T>
struct expert_scratch {
  matrix<T> hidden;               // (T, F)
  matrix<T> dhidden, dgate, dup;  // (T, F)
  constexpr expert_scratch(arena& memory, extent e, std::int64_t rows, std::int64_t width)
      : hidden(memory.matrix<T>(rows, width)),
        dhidden(memory.matrix<T>(e.training ? rows : 0, width)),
        dgate(memory.matrix<T>(e.training ? rows : 0, width)),
        dup(memory.matrix<T>(e.training ? rows : 0, width)) {}
};

/// y (T, D) from x (T, D) and w.gate, w.up (F, D), w.down (D, F).
template <class T, class W>
void expert_forward(basic_reference<T> const& on, glu act, spec::input<T> x, W const& w,
                    expert_saved<T> const& s, expert_scratch<T> const& scratch, spec::output<T> y) {
  linear_forward(on, x, w.gate, s.gate);
  linear_forward(on, x, w.up, s.up);
  gated_forward(on, act, s.gate, s.up, scratch.hidden);
  linear_forward(on, scratch.hidden, w.down, y);
}
template <class T, class W, class V>
void expert_backward(basic_reference<T> const& on, glu act, spec::input<T> x, W const& w,
                     expert_saved<T> const& s, expert_scratch<T> const& scratch, spec::input<T> dy,
                     V const& dw, gradients dw_mode, spec::output<T> dx, gradients dx_mode) {
  auto const& [hidden, dhidden, dgate, dup] = scratch;
  gated_forward(on, act, s.gate, s.up, hidden);
  linear_backward(on, hidden, w.down, dy, dw.down, dw_mode, dhidden, gradients::overwrite);
  gated_backward(on, act, s.gate, s.up, dhidden, dgate, dup);
  linear_backward(on, x, w.up, dup, dw.up, dw_mode, dx, dx_mode);
  linear_backward(on, x, w.gate, dgate, dw.gate, dw_mode, dx, gradients::accumulate);
}

template <class T, int D, int F, glu Act>
struct plan<basic_reference<T>, mlp<D, F, Act>> {
  using X = basic_reference<T>;
  struct saved : expert_saved<T> {
    constexpr saved(arena& memory, extent e) : expert_saved<T>(memory, e.tokens, F) {}
  };
  struct scratch : expert_scratch<T> {
    constexpr scratch(arena& memory, extent e) : expert_scratch<T>(memory, e, e.tokens, F) {}
  };

  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T> y) {
    expert_forward<T>(p.on, Act, x, w, s, scratch(p.scratch, p.extent), y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    expert_backward<T>(p.on, Act, x, w, s, scratch(p.scratch, p.extent), dy, dw, p.gradients, dx,
                       gradients::overwrite);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
