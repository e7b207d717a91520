// A picture of curves: axes, grid, bands, and each curve's name where it ends.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "statistics.hpp"
#include "svg.hpp"

namespace finegrain::inline FINEGRAIN_ABI::picture {

/// A line, and around it a band of half widths (empty, or one a point).
struct curve {
  std::string name;
  std::vector<point> points;
  std::vector<double> half = {};

  void add(double x, estimate const& e) {
    points.push_back({x, e.mean});
    if (e.has_interval()) half.push_back(e.half);
  }
  /// The last point whose numbers are finite, or null.
  point const* end() const {
    for (std::size_t i = points.size(); i-- > 0;)
      if (std::isfinite(points[i].x) && std::isfinite(points[i].y)) return &points[i];
    return nullptr;
  }
};

/// A height to compare with.
struct level {
  std::string name;
  double y;
};

/// Curves in one picture, with its title and the names of its axes.
struct curve_plot {
  std::string title, x_axis, y_axis;
  std::vector<curve> curves;
  std::vector<level> levels = {};
  double highest = std::numeric_limits<double>::infinity();  // what lies above is cut off
  bool whole = false;                                        // places are whole numbers
};

namespace detail {

struct plot_frame {
  scale x, y;
};

/// How far a picture of one height goes above and below it: so that it tells what height that is.
inline double half_room(double height) {
  double const size = std::fabs(height);
  return size > 1e-300 ? std::max(std::min(size, 1.0) / 2, size / 1000) : 0.5;
}

inline plot_frame frame_of(curve_plot const& plot, double left, double right, double top,
                           double bottom) {
  double x0 = std::numeric_limits<double>::infinity(), x1 = -x0,
         low = std::numeric_limits<double>::infinity(), high = -low;
  auto const widen = [&](double y) {
    if (std::isfinite(y)) low = std::min(low, y), high = std::max(high, y);
  };
  for (curve const& c : plot.curves)
    for (std::size_t i = 0; i < c.points.size(); ++i) {
      if (!std::isfinite(c.points[i].x)) continue;
      double const half = i < c.half.size() && std::isfinite(c.half[i]) ? c.half[i] : 0;
      x0 = std::min(x0, c.points[i].x), x1 = std::max(x1, c.points[i].x);
      widen(c.points[i].y - half);
      widen(c.points[i].y + half);
    }
  for (level const& l : plot.levels) widen(l.y);
  if (!std::isfinite(low)) low = 0, high = 1;
  high = std::min(high, plot.highest);
  if (!(low < high)) high = low + half_room(low), low -= half_room(low);
  double const room = 0.04 * (high - low);
  if (!(x0 <= x1)) x0 = 0, x1 = 1;
  if (x0 == x1) x1 += std::max(1.0, half_room(x0));
  return {{x0, x1, left, right}, {low - room, high + room, bottom, top}};
}

inline void draw_axes(drawing& d, curve_plot const& plot, plot_frame const& f) {
  for (double y : f.y.ticks(6)) {
    d.line({f.x.from, f.y(y)}, {f.x.to, f.y(y)}, R"(stroke="#e8e8e8")");
    d.text({f.x.from - 8, f.y(y) + 4}, f.y.words(y, 6), R"(text-anchor="end")");
  }
  for (double x : f.x.ticks(6)) {
    if (plot.whole && x != std::floor(x)) continue;
    d.line({f.x(x), f.y.from}, {f.x(x), f.y.from + 5}, R"(stroke="#444")");
    d.text({f.x(x), f.y.from + 19}, text::shortened(x), R"(text-anchor="middle")");
  }
  d.path({{f.x.from, f.y.to}, {f.x.from, f.y.from}, {f.x.to, f.y.from}},
         R"(stroke="#444" fill="none")");
  d.text({f.x.from - 48, f.y.to - 34}, plot.title, R"(font-size="15" font-weight="bold")");
  d.text({f.x.from - 48, f.y.to - 14}, plot.y_axis, R"(fill="#555")");
  d.text({(f.x.from + f.x.to) / 2, f.y.from + 40}, plot.x_axis,
         R"(text-anchor="middle" fill="#555")");
}

inline constexpr double character = 6.6;       // a label's, in width
inline constexpr double apart = 15;            // labels, in height
inline constexpr std::size_t usual_value = 4;  // characters of a label's number: 2.50

/// A name at the right edge, at the height that it belongs to or as near as there is room.
struct edge_label {
  std::string name, value, colour, dash;
  double wanted, y;
};

/// The label of a curve where it ends; where the picture does not show that, words say why.
inline edge_label label_of(curve const& c, scale const& y, std::string colour, std::string dash) {
  point const* const end = c.end();
  if (!end)
    return {c.name + (c.points.empty() ? " (no values)" : " (not finite)"),
            "",
            std::move(colour),
            std::move(dash),
            y.to,
            0};
  bool const above = end->y > y.high;
  return {c.name + (above ? " (above)" : "") +
              (std::isfinite(c.points.back().y) ? "" : " (then not finite)"),
          above ? text::rounded(end->y) : y.words(end->y, 6, y.tick_digits(6) == 0 ? 2 : 1),
          std::move(colour),
          std::move(dash),
          y(std::min(end->y, y.high)),
          0};
}

inline void spread(std::vector<edge_label>& labels, double top, double bottom) {
  std::stable_sort(labels.begin(), labels.end(),
                   [](edge_label const& a, edge_label const& b) { return a.wanted < b.wanted; });
  // Clusters that would overlap stand around the middle of what their members want.
  struct cluster {
    double sum;
    std::size_t first, count;
    double begin() const {
      return sum / static_cast<double>(count) - apart * static_cast<double>(count - 1) / 2;
    }
  };
  std::vector<cluster> clusters;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    clusters.push_back({labels[i].wanted, i, 1});
    while (clusters.size() > 1) {
      cluster const last = clusters.back();
      cluster& before = clusters[clusters.size() - 2];
      if (before.begin() + apart * static_cast<double>(before.count) <= last.begin()) break;
      before.sum += last.sum;
      before.count += last.count;
      clusters.pop_back();
    }
  }
  double free = top;
  for (cluster const& c : clusters) {
    double const length = apart * static_cast<double>(c.count - 1);
    double y = std::max(free, std::min(c.begin(), bottom - length));
    for (std::size_t i = c.first; i < c.first + c.count; ++i, y += apart) labels[i].y = y;
    free = y;
  }
}

inline void draw_edge_labels(drawing& d, plot_frame const& f, std::vector<edge_label> labels) {
  spread(labels, f.y.to, f.y.from);
  double const x = f.x.to;
  std::size_t digits = usual_value;
  for (edge_label const& l : labels) digits = std::max(digits, l.value.size());
  double const name = x + 65 + character * static_cast<double>(digits - usual_value);
  for (edge_label const& l : labels) {
    d.path({{x + 4, l.wanted}, {x + 10, l.wanted}, {x + 22, l.y}, {x + 28, l.y}},
           "fill=\"none\" stroke-opacity=\"0.6\" stroke=\"" + l.colour + "\"" + l.dash);
    d.text({x + 33, l.y + 4}, l.value, "fill=\"" + l.colour + "\"");
    d.text({name, l.y + 4}, l.name, "fill=\"" + l.colour + "\"");
  }
}

inline void draw_curve(drawing& d, curve const& c, plot_frame const& f, std::size_t series,
                       bool faint) {
  std::string const colour = series_colour(series);
  std::vector<point> line, band;
  for (point p : c.points) line.push_back({f.x(p.x), f.y(p.y)});
  bool const banded = c.half.size() == c.points.size();
  for (std::size_t i = 0; banded && i < c.points.size(); ++i)
    band.push_back({f.x(c.points[i].x), f.y(c.points[i].y + c.half[i])});
  for (std::size_t i = c.points.size(); banded && i-- > 0;)
    band.push_back({f.x(c.points[i].x), f.y(c.points[i].y - c.half[i])});
  d.path(band,
         std::string("stroke=\"none\" fill-opacity=\"") + (faint ? "0.06" : "0.15") + "\" fill=\"" +
             colour + "\"",
         true);
  d.path(line, "fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\" stroke=\"" + colour +
                   "\"" + series_dash(series));
  for (point p : line) d.dot(p, 2.4, "fill=\"" + colour + "\"");
}

}  // namespace detail

/// The picture as SVG: larger than usual where its names need that.
inline std::string draw(curve_plot const& plot) {
  constexpr double left = 60, top = 58, least = 420;  // of the curves' width
  std::size_t const count = plot.curves.size() + plot.levels.size();
  double const bottom = std::max(396.0, top + detail::apart * static_cast<double>(count));
  scale const y = detail::frame_of(plot, left, left + least, top, bottom).y;
  std::vector<detail::edge_label> labels;
  for (level const& l : plot.levels)
    labels.push_back(detail::label_of({l.name, {{0, l.y}}}, y, "#888888", ""));
  for (std::size_t i = 0; i < plot.curves.size(); ++i)
    labels.push_back(detail::label_of(plot.curves[i], y, series_colour(i), series_dash(i)));
  std::size_t longest = 0, number = detail::usual_value;
  for (detail::edge_label const& l : labels) {
    longest = std::max(longest, text::width(l.name));
    number = std::max(number, l.value.size());
  }
  double const more = detail::character * static_cast<double>(number - detail::usual_value);
  double const names =
      std::max(75 + detail::character * static_cast<double>(longest), 165.0) + more;
  double const width = std::max(780.0, left + least + names);
  drawing d(width, bottom + 54);
  auto const f = detail::frame_of(plot, left, width - names, top, bottom);
  detail::draw_axes(d, plot, f);
  d.clip({f.x.from, f.y.to}, f.x.to - f.x.from + 4, f.y.from - f.y.to);
  for (level const& l : plot.levels)
    d.line({f.x.from, f.y(l.y)}, {f.x.to, f.y(l.y)}, R"(stroke="#888" stroke-dasharray="5 4")");
  for (std::size_t i = 0; i < plot.curves.size(); ++i)
    detail::draw_curve(d, plot.curves[i], f, i, plot.curves.size() > 3);
  d.unclip();
  detail::draw_edge_labels(d, f, std::move(labels));
  return d.svg();
}

}  // namespace finegrain::inline FINEGRAIN_ABI::picture
