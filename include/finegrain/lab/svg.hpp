// A drawing in SVG: lines, boxes, texts, on a sheet of numbers; and scales with round ticks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI::picture {

/// A point of a drawing, in pixels from the upper left.
struct point {
  double x, y;
};

/// How something is drawn: any SVG presentation attributes, `stroke="#444" fill="none"`.
using style = std::string;

/// A sheet of width x height pixels, and what was drawn on it, in order.
class drawing {
 public:
  drawing(double width, double height) : width_(width), height_(height) {}

  /// From one point to the other; nothing, where one is not finite.
  void line(point a, point b, style const& how) {
    if (!finite(a) || !finite(b)) return;
    body_ += "<line" + at("x1", a.x) + at("y1", a.y) + at("x2", b.x) + at("y2", b.y) + " " + how +
             "/>\n";
  }
  void box(point corner, double width, double height, style const& how, std::string_view tip = {}) {
    body_ += "<rect" + at("x", corner.x) + at("y", corner.y) + at("width", width) +
             at("height", height) + " " + how;
    body_ += tip.empty() ? "/>\n" : "><title>" + text::escaped(tip) + "</title></rect>\n";
  }
  void text(point p, std::string_view words, style const& how = {}) {
    body_ += "<text" + at("x", p.x) + at("y", p.y) + " " + how + ">" + text::escaped(words) +
             "</text>\n";
  }
  /// What a picture shows, and a word on how to read it.
  void heading(std::string_view title, std::string_view note) {
    text({12, 24}, title, R"(font-size="15" font-weight="bold")");
    text({12, 44}, note, R"(fill="#555")");
  }
  /// Straight from point to point; points that are not finite are left out.
  void path(std::vector<point> const& points, style const& how, bool closed = false) {
    std::string d;
    for (point p : points)
      if (finite(p)) {
        d += d.empty() ? 'M' : 'L';
        d += number(p.x) + ' ' + number(p.y);
      }
    if (!d.empty()) body_ += "<path d=\"" + d + (closed ? "Z" : "") + "\" " + how + "/>\n";
  }
  void dot(point p, double radius, style const& how) {
    if (finite(p))
      body_ += "<circle" + at("cx", p.x) + at("cy", p.y) + at("r", radius) + " " + how + "/>\n";
  }
  /// What is drawn from here to unclip() shows inside this box only. (A picture inside the picture:
  /// a clip path would need an id, and several pictures may stand in one page.)
  void clip(point corner, double width, double height) {
    body_ += "<svg" + at("x", corner.x) + at("y", corner.y) + at("width", width) +
             at("height", height) + " viewBox=\"" + number(corner.x) + ' ' + number(corner.y) +
             ' ' + number(width) + ' ' + number(height) + "\" overflow=\"hidden\">\n";
  }
  void unclip() { body_ += "</svg>\n"; }

  std::string svg() const {
    return "<svg xmlns=\"http://www.w3.org/2000/svg\"" + at("width", width_) +
           at("height", height_) + " viewBox=\"0 0 " + number(width_) + " " + number(height_) +
           "\" font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\" "
           "font-size=\"12\" fill=\"#222\">\n"
           "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n" +
           body_ + "</svg>\n";
  }

 private:
  static bool finite(point p) { return std::isfinite(p.x) && std::isfinite(p.y); }
  /// What lies so far outside that no sheet shows it stays there, in digits that SVG has.
  static std::string number(double v) {
    constexpr double far = 1e6;
    std::string text = text::fixed(std::clamp(v, -far, far), 2);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text == "-0" ? "0" : text;
  }
  static std::string at(char const* name, double v) {
    return std::string(1, ' ') + name + "=\"" + number(v) + '"';
  }

  double width_, height_;
  std::string body_;
};

/// Numbers in [low, high] to pixels in [from, to].
struct scale {
  double low, high, from, to;
  double operator()(double v) const { return from + (v - low) / (high - low) * (to - from); }

  /// About `count` round numbers inside: steps of 1, 2 or 5 times a power of ten. None where numbers
  /// of that size have no such steps between them.
  std::vector<double> ticks(int count = 5) const {
    double const step = tick_step(count);
    std::vector<double> at;
    if (!(low + step / 2 > low && high - step / 2 < high)) return at;
    for (double n = std::ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1)
      at.push_back(n * step + 0.0);  // no -0
    return at;
  }
  /// Digits after the point that tell the ticks apart.
  int tick_digits(int count = 5) const {
    double const digits = -power_of(tick_step(count));
    return digits > 0 ? static_cast<int>(std::min(digits, 400.0)) : 0;  // 0 of NaN too
  }
  /// A number with the digits that tell ticks apart, and so many more; in powers of ten where there is
  /// no room for that beside an axis.
  std::string words(double v, int count = 5, int more = 0) const {
    std::string plain = text::fixed(v, tick_digits(count) + more);
    double const above = power_of(std::fabs(v)) - power_of(tick_step(count));
    if (plain.size() <= 8 || above >= 17) return plain;
    return text::significant(v, 1 + static_cast<int>(std::max(0.0, above)) + more);
  }

 private:
  /// The power of ten that a number above 0 begins with.
  static double power_of(double v) { return std::floor(std::log10(v) + 1e-9); }
  double tick_step(int count) const {
    double const rough = (high - low) / count, power = std::pow(10, std::floor(std::log10(rough)));
    double const lead = rough / power;
    return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  }
};

/// Colours that people with any colour vision tell apart [Okabe, Ito], in order of use.
inline std::string series_colour(std::size_t i) {
  constexpr std::array<char const*, 7> colours = {"#555555", "#0072b2", "#d55e00", "#009e73",
                                                  "#cc79a7", "#e69f00", "#56b4e9"};
  return colours[i % colours.size()];
}

/// How the line of a series is broken: colours come again, broken otherwise.
inline std::string series_dash(std::size_t i) {
  constexpr std::array<char const*, 3> dashes = {"", "7 3", "2 3"};
  return i < 7 ? std::string()
               : std::string(" stroke-dasharray=\"") + dashes[i / 7 % dashes.size()] + "\"";
}

/// Red, green and blue, each from 0 to 255.
using rgb = std::array<double, 3>;

/// The colour at a place between two: 0 is the first, 1 the second.
inline std::string colour_between(rgb const& first, rgb const& second, double share) {
  std::string text = "#";
  for (std::size_t c = 0; c < 3; ++c) {
    double const v = first[c] + share * (second[c] - first[c]);
    text += text::hex(static_cast<std::uint64_t>(v + 0.5)).substr(14);
  }
  return text;
}

/// White at 0 to dark blue at 1, evenly darker.
inline std::string heat_colour(double share) {
  constexpr std::array<rgb, 5> stops = {
      {{247, 251, 255}, {198, 219, 239}, {107, 174, 214}, {33, 113, 181}, {8, 40, 94}}};
  double const place = std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0) * 4;
  std::size_t const i = std::min<std::size_t>(3, static_cast<std::size_t>(place));
  return colour_between(stops[i], stops[i + 1], place - static_cast<double>(i));
}

/// What colours mean, from colour(0) at the foot of a bar to colour(1), with words at even distances.
template <class Colour>
void colour_bar(drawing& d, point corner, Colour colour, std::vector<std::string> const& words) {
  constexpr double width = 14, length = 120;
  for (int i = 0; i < 60; ++i)
    d.box({corner.x, corner.y + length * (59 - i) / 60}, width, length / 60 + 0.5,
          "fill=\"" + colour(i / 59.0) + "\"");
  d.box(corner, width, length, R"(fill="none" stroke="#888" stroke-width="0.7")");
  double const steps = static_cast<double>(words.size()) - 1;
  for (std::size_t i = 0; i < words.size(); ++i)
    d.text({corner.x + 20, corner.y + length * (steps - static_cast<double>(i)) / steps + 4},
           words[i], R"(font-size="11")");
}

}  // namespace finegrain::inline FINEGRAIN_ABI::picture
