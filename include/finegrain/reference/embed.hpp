// The embedding: row `id` of a table for each token id.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "../plan/stages.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// y (T, D) = rows of table (V, D). Throws invalid_argument if an id is not a row of the table.
template <class T>
void embedding_forward(basic_reference<T> const&, std::span<std::int32_t const> ids,
                       spec::input<T> table, spec::output<T> y) {
  detail::check_table_ids(ids, y.rows, table.rows);
  for (std::int64_t t = 0; t < y.rows; ++t)
    std::copy_n(table.row(ids[std::size_t(t)]), table.cols, y.row(t));
}

/// dtable (V, D): each token adds its dy (T, D) to the row of its id.
template <class T>
void embedding_backward(basic_reference<T> const&, std::span<std::int32_t const> ids,
                        spec::input<T> dy, spec::output<T> dtable, gradients mode) {
  detail::check_table_ids(ids, dy.rows, dtable.rows);
  spec::begin(mode, dtable);
  for (std::int64_t t = 0; t < dy.rows; ++t)
    spec::add(1, dy.row(t), dtable.row(ids[std::size_t(t)]), dy.cols);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
