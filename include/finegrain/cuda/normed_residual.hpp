// normed_residual: what x + stage(rmsnorm(x)) keeps and needs on the device, and its backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/plan.hpp"
#include "executor.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// D wide; Stage is the stage's plan.
template <class T, int D, class Stage>
struct normed_residual {
  using X = basic_cuda<T>;

  struct saved {
    matrix<T> rows;      // (T, D) of the norm
    float* inverse_rms;  // (T)
    typename Stage::saved inner;
    constexpr saved(arena& memory, extent e)
        : rows(memory.matrix<T>(e.tokens, D)),
          inverse_rms(memory.take<float>(e.tokens)),
          inner(memory, e) {}
  };
  struct scratch {
    matrix<T> drows;  // (T, D)
    float* sums;
    arena rest;
    constexpr scratch(arena& memory, extent e)
        : drows(memory.matrix<T>(e.training ? e.tokens : 0, D)),
          sums(memory.take<float>(e.training ? norm_parts(e.tokens, D) * D : 0)),
          rest(memory) {
      static_cast<void>(typename Stage::scratch(memory, e));
    }
  };

  /// The norm adds the residual's gradient to its own.
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<T const> x, matrix<T const> dy,
                       V const& dw, matrix<T> dx) {
    check_rows(x, "x"), check_rows(dy, "dy"), check_rows(dx, "dx");
    scratch const t(p.scratch, p.extent);
    p.scratch = t.rest;
    Stage::backward(p, w.a.b, s.inner, s.rows, dy, dw.a.b, t.drows);
    norm<T>::backward(x, w.a.a.gain.data, s.inverse_rms, t.drows, dy, t.sums, dw.a.a.gain.data,
                      p.gradients, dx, p.on.stream);
  }
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
