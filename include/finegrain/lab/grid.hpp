// A picture of a matrix: a box for each number, darker for more.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "number_table.hpp"
#include "svg.hpp"

namespace finegrain::inline FINEGRAIN_ABI::picture {

/// Rows of equal length. Rows' names may be left out.
struct grid {
  std::string name;
  number_table cells;
  std::vector<std::string> rows = {};
  double square = 0;  // cells are squares of so many pixels, in place of rows of full width
};

/// White in the middle, as what is no number is, blue towards 1, orange towards -1.
inline std::string signed_colour(double v) {
  if (!(v < 0)) return heat_colour(v);
  return colour_between({251, 249, 247}, {176, 76, 0}, std::min(-v, 1.0));
}

/// The picture as SVG: grids below one another; colours go from `low` to `high`. A low below 0
/// makes them signed. Cells that are not too small tell their number.
inline std::string draw_grids(std::string const& title, std::string const& note,
                              std::vector<grid> const& grids, double low, double high) {
  constexpr double top = 64;
  std::size_t longest = 0;
  for (grid const& g : grids) {
    std::size_t rows = 0;
    for (auto const& name : g.rows) rows = std::max(rows, text::width(name) + 2);
    longest = std::max(longest, text::width(g.name) + rows);
  }
  double const left = std::max(20 + 7.2 * static_cast<double>(longest), 150.0);
  double const right = std::max(640.0, left + 340);
  auto const row_of = [](grid const& g) { return g.square > 0 ? g.square : 18; };
  double height = top;
  for (grid const& g : grids) height += row_of(g) * static_cast<double>(g.cells.size()) + 26;
  drawing d(right + 140, std::max(height + 10, top + 150));
  d.heading(title, note);
  auto const colour = [&](double v) {
    return low < 0 ? signed_colour(v / (v < 0 ? -low : high))
                   : heat_colour((v - low) / (high - low));
  };
  double y = top;
  for (grid const& g : grids) {
    d.text({12, y + 13}, g.name, R"(font-weight="bold")");
    double const row = row_of(g);
    std::string const edge = row < 10 ? "" : R"(stroke="#fff" stroke-width="0.5" )";
    for (std::size_t r = 0; r < g.cells.size(); ++r, y += row) {
      auto const& cells = g.cells[r];
      double const width =
          g.square > 0 ? g.square : (right - left) / static_cast<double>(cells.size());
      if (r < g.rows.size())
        d.text({left - 8, y + row / 2 + 4}, g.rows[r], R"(text-anchor="end" fill="#555")");
      for (std::size_t c = 0; c < cells.size(); ++c)
        d.box({left + width * static_cast<double>(c), y}, width, row,
              edge + "fill=\"" + colour(cells[c]) + "\"",
              row < 10 ? std::string() : text::fixed(cells[c], 2));
    }
    y += 26;
  }
  auto const value = [&](double share) { return low + (high - low) * share; };
  colour_bar(d, {right + 50, top}, [&](double share) { return colour(value(share)); },
             {text::fixed(low, 1), text::fixed(value(0.5), 1), text::fixed(high, 1)});
  return d.svg();
}

}  // namespace finegrain::inline FINEGRAIN_ABI::picture
