// The embedding: row `id` of a table for each token id.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "../plan/stages.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// y (T, D) = rows of table (V, D).
template <class T>
void take_rows(cpu const& on, std::span<std::int32_t const> ids, matrix<T const> table,
               matrix<float> y) {
  finegrain::detail::check_table_ids(ids, y.rows, table.rows);
  finegrain::detail::for_rows<64>(on, y.rows, [&](std::int64_t t, int) {
    T const* const from = table.row(ids[static_cast<std::size_t>(t)]);
    std::transform(from, from + table.cols, y.row(t), [](T x) { return static_cast<float>(x); });
  });
}

}  // namespace simd

/// y (T, D) = rows of table (V, D). Throws invalid_argument if an id is not a row of the table.
FINEGRAIN_LAZY inline void embedding_forward(cpu const& on, std::span<std::int32_t const> ids,
                                             matrix<float const> table, matrix<float> y) {
  simd::take_rows(on, ids, table, y);
}
FINEGRAIN_LAZY inline void embedding_forward(cpu const& on, std::span<std::int32_t const> ids,
                                             matrix<bf16 const> table, matrix<float> y) {
  simd::take_rows(on, ids, table, y);
}

/// dtable (V, D): each token adds its dy (T, D) to the row of its id, in the tokens' order. Tasks
/// are columns, so that no two of them meet.
FINEGRAIN_LAZY inline void embedding_backward(cpu const& on, std::span<std::int32_t const> ids,
                                              matrix<float const> dy, matrix<float> dtable,
                                              gradients mode) {
  constexpr std::int64_t columns = 64;
  finegrain::detail::check_table_ids(ids, dy.rows, dtable.rows);
  on.threads(ceil_div(dtable.cols, columns), [&](std::int64_t task, int) {
    std::int64_t const first = task * columns, n = std::min(columns, dtable.cols - first);
    if (mode == gradients::overwrite)
      for (std::int64_t v = 0; v < dtable.rows; ++v) std::fill_n(dtable.row(v) + first, n, 0.0f);
    for (std::int64_t t = 0; t < dy.rows; ++t) {
      float const* const from = dy.row(t) + first;
      float* const to = dtable.row(ids[static_cast<std::size_t>(t)]) + first;
      for (std::int64_t c = 0; c < n; ++c) to[c] += from[c];
    }
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
