// A picture of means with their 95 % intervals, one row each: what models differ by.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "statistics.hpp"
#include "svg.hpp"

namespace finegrain::inline FINEGRAIN_ABI::picture {

/// A mean with its interval, and the values that it is of.
struct interval_row {
  std::string name;
  estimate of;
  std::vector<double> values = {};
};

/// Rows in one picture, with its title and the name of its axis.
struct interval_plot {
  std::string title, x_axis;
  std::vector<interval_row> rows;
};

/// The picture as SVG. Zero is always shown; a row whose interval is clear of it is filled.
inline std::string draw(interval_plot const& plot) {
  constexpr double row = 30, top = 66;
  std::size_t longest = 0;
  for (interval_row const& r : plot.rows) longest = std::max(longest, text::width(r.name));
  double const left = std::max(190.0, 24 + 6.6 * static_cast<double>(longest));
  double const right = left + 430, width = right + 160;
  double const bottom = top + row * static_cast<double>(std::max<std::size_t>(plot.rows.size(), 1));
  double low = 0, high = 0;
  auto const widen = [&](double x) {
    if (std::isfinite(x)) low = std::min(low, x), high = std::max(high, x);
  };
  for (interval_row const& r : plot.rows) {
    double const half = std::isfinite(r.of.half) ? r.of.half : 0;
    widen(r.of.mean - half), widen(r.of.mean + half);
    for (double v : r.values) widen(v);
  }
  if (!(low < high)) low = -1, high = 1;
  double const room = 0.06 * (high - low);
  scale const x{low - room, high + room, left, right};

  drawing d(width, bottom + 54);
  d.heading(plot.title, "mean, 95 % interval where there are seeds, and each seed");
  for (double tick : x.ticks(6)) {
    d.line({x(tick), top}, {x(tick), bottom}, R"(stroke="#e8e8e8")");
    d.text({x(tick), bottom + 18}, x.words(tick, 6), R"(text-anchor="middle")");
  }
  d.line({x(0), top - 6}, {x(0), bottom + 4}, R"(stroke="#444")");
  d.text({(left + right) / 2, bottom + 40}, plot.x_axis, R"(text-anchor="middle" fill="#555")");
  for (std::size_t i = 0; i < plot.rows.size(); ++i) {
    interval_row const& r = plot.rows[i];
    double const y = top + row * (static_cast<double>(i) + 0.5);
    auto const [mean, half, count] = r.of;
    bool const known = std::isfinite(half), clear = known && std::fabs(mean) > half;
    std::string const colour = !clear ? "#777777" : mean < 0 ? "#0072b2" : "#d55e00";
    d.text({left - 12, y + 4}, r.name, R"(text-anchor="end")");
    for (double v : r.values)
      d.dot({x(v), y + 9}, 2.2, "fill=\"" + colour + "\" fill-opacity=\"0.6\"");
    if (known)
      d.line({x(mean - half), y}, {x(mean + half), y},
             "stroke-width=\"2.5\" stroke-linecap=\"round\" stroke=\"" + colour + "\"");
    d.dot({x(mean), y}, 5,
          "stroke-width=\"2\" stroke=\"" + colour + "\" fill=\"" + (clear ? colour : "#ffffff") +
              "\"");
    d.text({right + 14, y + 4}, signed_text(r.of), "fill=\"" + colour + "\"");
  }
  return d.svg();
}

}  // namespace finegrain::inline FINEGRAIN_ABI::picture
