// Whether experts differ: what an expert tells of a token's domain, and how alike routers see two.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "number_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Bits that the column of a draw tells of its row, from counts [row][column]: a draw is a slot of
/// a token, its row the domain, its column the expert. 0: experts are used alike in all domains.
/// With n rows of equal weight at most log2(n). NaN where nothing was counted.
///
/// It is the plug-in estimate, too high by about (rows - 1) (columns - 1) / (2 n ln 2) bits of n
/// independent draws. Tokens of a window are alike, and count as far fewer: the error can be as
/// large as the estimate. Permuting the labels of windows among the rows shows how large it is.
inline double mutual_information(number_table const& counts) {
  double total = 0;
  std::vector<double> columns;
  for (auto const& row : counts) {
    columns.resize(std::max(columns.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) columns[c] += row[c], total += row[c];
  }
  double bits = 0;
  for (auto const& row : counts) {
    double const sum = std::accumulate(row.begin(), row.end(), 0.0);
    for (std::size_t c = 0; c < row.size(); ++c)
      if (row[c] > 0) bits += row[c] / total * std::log2(row[c] * total / (sum * columns[c]));
  }
  return total > 0 ? std::max(bits, 0.0) : total / total;
}

/// What each column's share of its row is, over the column's share of all rows, rows weighing
/// alike: 1 is even, 2 is twice as often. Columns that nobody used are 0.
inline number_table preference(number_table const& counts) {
  number_table out = counts;
  for (auto& row : out) {
    double const sum = std::accumulate(row.begin(), row.end(), 0.0);
    for (double& v : row) v = sum > 0 ? v / sum : 0;
  }
  for (std::size_t c = 0; !out.empty() && c < out[0].size(); ++c) {
    double mean = 0;
    for (auto const& row : out) mean += row[c] / static_cast<double>(out.size());
    for (auto& row : out) row[c] = mean > 0 ? row[c] / mean : 0;
  }
  return out;
}

/// An order of the columns: by the row that likes each best, then by how much.
inline std::vector<std::size_t> by_favourite(number_table const& preferences) {
  std::size_t const columns = preferences.empty() ? 0 : preferences[0].size();
  std::vector<std::size_t> order(columns);
  std::iota(order.begin(), order.end(), std::size_t{0});
  auto const best = [&](std::size_t c) {
    std::size_t row = 0;
    for (std::size_t r = 1; r < preferences.size(); ++r)
      if (preferences[r][c] > preferences[row][c]) row = r;
    return row;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    std::size_t const ra = best(a), rb = best(b);
    return ra != rb ? ra < rb : preferences[ra][a] > preferences[rb][b];
  });
  return order;
}

/// The columns of a table in another order.
inline number_table columns_in(number_table const& from, std::span<std::size_t const> order) {
  number_table out;
  for (auto const& row : from) {
    out.emplace_back();
    for (std::size_t c : order) out.back().push_back(row[c]);
  }
  return out;
}

/// Cosines of all pairs of rows: of a router's rows, how alike two experts' scores are over tokens.
inline number_table cosines(number_table const& rows) {
  auto const dot = [](std::vector<double> const& a, std::vector<double> const& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  number_table out(rows.size(), std::vector<double>(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < rows.size(); ++j) {
      double const norms = std::sqrt(dot(rows[i], rows[i]) * dot(rows[j], rows[j]));
      out[i][j] = norms > 0 ? dot(rows[i], rows[j]) / norms : 0;
    }
  return out;
}

/// The mean of |cosine| over pairs of different rows.
inline double mean_similarity(number_table const& cosines) {
  double sum = 0;
  for (std::size_t i = 0; i < cosines.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) sum += std::fabs(cosines[i][j]);
  double const n = static_cast<double>(cosines.size());
  return n > 1 ? sum / (n * (n - 1) / 2) : 0;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
