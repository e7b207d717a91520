// The embedding: row `id` of a table for each token id.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace spec {

inline void check_ids(std::span<std::int32_t const> ids, std::int64_t tokens, std::int64_t rows) {
  if (std::int64_t(ids.size()) != tokens)
    throw invalid_argument("the batch has %lld token ids for %lld tokens",
                           static_cast<long long>(ids.size()), static_cast<long long>(tokens));
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || ids[t] >= rows)
      throw invalid_argument("token %lld has the id %d; the embedding's table has %lld rows",
                             static_cast<long long>(t), static_cast<int>(ids[t]),
                             static_cast<long long>(rows));
}

}  // namespace spec

/// y (T, D) = rows of table (V, D). Throws invalid_argument if an id is not a row of the table.
template <class T>
void embedding_forward(basic_reference<T> const&, std::span<std::int32_t const> ids,
                       spec::input<T> table, spec::output<T> y) {
  spec::check_ids(ids, y.rows, table.rows);
  for (std::int64_t t = 0; t < y.rows; ++t)
    std::copy_n(table.row(ids[std::size_t(t)]), table.cols, y.row(t));
}

/// dtable (V, D): each token adds its dy (T, D) to the row of its id.
template <class T>
void embedding_backward(basic_reference<T> const&, std::span<std::int32_t const> ids,
                        spec::input<T> dy, spec::output<T> dtable, gradients mode) {
  spec::check_ids(ids, dy.rows, dtable.rows);
  spec::begin(mode, dtable);
  for (std::int64_t t = 0; t < dy.rows; ++t)
    spec::add(1, dy.row(t), dtable.row(ids[std::size_t(t)]), dy.cols);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
