// hopper_backward: its kernels, and what launches them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/block_place.hpp"
#include "backward.hpp"
#include "backward_rows.cuh"
#include "backward_weights.cuh"
#include "launch.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace hopper::backward {

/// (outer, middle, inner), dense, in boxes of (box_outer, box_middle, 64).
template <class T>
CUtensorMap dense_map(T const* data, std::int64_t outer, std::int64_t middle, std::int64_t inner,
                      int box_outer, int box_middle) {
  return map_of({data, inner, middle, outer, inner, middle * inner, box_middle, box_outer});
}

template <class T, bool down>
rows_family<T> rows_of(expert_products<T> const& p, expert_family<T> const& e, std::int64_t experts,
                       std::int64_t rows) {
  rows_family<T> f{};
  f.of = e;
  if (e.width == 0) return f;
  std::int64_t const F = e.width, D = p.hidden;
  if constexpr (down) {
    f.b[0] = dense_map(e.down, experts, D, F, 1, 64);
    f.z = dense_map(e.z, rows, 2, F, 128, 1);
    f.dz = dense_map(e.dz, rows, 2, F, 16, 1);
    f.out = dense_map(e.hidden, 1, rows, F, 1, 16);
    f.steps = ceil_div(p.hidden, 64);
    f.columns = e.width;
    f.dot_parts = dot_parts(e.width);
  } else {
    f.a = dense_map(e.dz, rows, 2, F, 128, 1);
    f.b[0] = dense_map(e.gate, experts, F, D, 1, 64);
    f.b[1] = dense_map(e.up, experts, F, D, 1, 64);
    f.out = dense_map(e.out, 1, rows, D, 1, 64);
    f.steps = ceil_div(e.width, 64);
    f.columns = p.hidden;
  }
  f.column_tiles = ceil_div(f.columns, 256);
  return f;
}
template <class T, bool down>
void launch_rows(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  if (p.rows.tokens == 0 || (p.shared.width == 0 && p.routed.width == 0)) return;
  int const shared_rows = p.shared.width > 0 ? ceil_div(p.rows.tokens, 128) : 0;
  rows_arguments<T> const g{rows_of<T, down>(p, p.shared, 1, p.rows.tokens),
                            rows_of<T, down>(p, p.routed, p.rows.experts, p.rows.max_rows()),
                            p.rows,
                            p.dy,
                            p.hidden,
                            shared_rows,
                            gate_function(p.act)};
  launch_clusters<rows_shape<down>>(backward_rows<T, down>, g, INT64_MAX, stream, name);
}

template <class T>
weights_family<T> weights_of(expert_products<T> const& p, expert_family<T> const& e, bool down,
                             std::int64_t experts, std::int64_t rows) {
  weights_family<T> f{};
  if (e.width == 0) return f;
  std::int64_t const F = e.width, D = p.hidden;
  f.width = e.width;
  f.parts = down || F % 64 == 0 ? 1 : 2;
  f.columns = down || f.parts == 2 ? e.width : 2 * e.width;
  f.column_tiles = ceil_div(f.columns, 256);
  f.b = dense_map(down ? e.hidden : e.dz, rows, f.parts, f.columns, 64, 1);
  if (down) {
    f.out[0] = dense_map(e.ddown, experts, D, F, 1, 64);
  } else {
    f.out[0] = dense_map(e.dgate, experts, F, D, 1, 64);
    f.out[1] = dense_map(e.dup, experts, F, D, 1, 64);
  }
  return f;
}
template <class T, bool down>
void launch_weights(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  if (p.rows.tokens == 0) {
    auto const clear = [&](T* weights, expert_family<T> const& e, std::int64_t experts) {
      if (e.width == 0 || p.mode == gradients::accumulate) return;
      std::int64_t const numbers = experts * e.width * p.hidden;
      check(cudaMemsetAsync(weights, 0, static_cast<std::size_t>(numbers) * sizeof(T), stream),
            name);
    };
    auto const clear_family = [&](expert_family<T> const& e, std::int64_t experts) {
      if (down) return clear(e.ddown, e, experts);
      clear(e.dgate, e, experts);
      clear(e.dup, e, experts);
    };
    clear_family(p.shared, 1);
    clear_family(p.routed, p.rows.experts);
    return;
  }
  if (p.shared.width == 0 && p.routed.width == 0) return;
  weights_arguments<T> g{weights_of(p, p.shared, down, 1, p.rows.tokens),
                         weights_of(p, p.routed, down, p.rows.experts, p.rows.max_rows()),
                         p.rows,
                         down ? p.dy : p.x,
                         p.hidden,
                         ceil_div(p.hidden, 256),
                         0,
                         p.mode};
  g.shared_units = g.shared.parts * g.shared.column_tiles * g.pairs;
  launch_clusters<weights_shape>(backward_weights<T, !down>, g, INT64_MAX, stream, name);
}

}  // namespace hopper::backward

template <class T>
bool hopper_backward<T>::available() {
  return hopper::can_run<&hopper::backward::backward_weights<T, false>>();
}
template <class T>
void hopper_backward<T>::down_backward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::backward::launch_rows<T, true>(p, stream, "down_backward");
}
template <class T>
void hopper_backward<T>::down_weights(expert_products<T> const& p, CUstream_st* stream) {
  hopper::backward::launch_weights<T, true>(p, stream, "down_weights");
}
template <class T>
void hopper_backward<T>::up_backward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::backward::launch_rows<T, false>(p, stream, "up_backward");
}
template <class T>
void hopper_backward<T>::up_weights(expert_products<T> const& p, CUstream_st* stream) {
  hopper::backward::launch_weights<T, false>(p, stream, "up_weights");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
