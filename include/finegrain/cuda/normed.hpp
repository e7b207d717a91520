// What a residual stage behind a norm keeps and needs beside the stage's own memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/buffer.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Memory of x + stage(rmsnorm(x)), D wide.
template <class T, int D, class Stage>
struct normed {
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
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
