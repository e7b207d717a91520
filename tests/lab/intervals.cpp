// Intervals as a picture.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/intervals.hpp>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace picture = finegrain::picture;

namespace {
double const none = std::numeric_limits<double>::quiet_NaN();
}

TEST_CASE("A picture of intervals is well-formed and says each mean with its sign") {
  std::string const svg = picture::draw(picture::interval_plot{
      "A & b",
      "difference",
      {{"1+7/63", {-0.05, 0.01, 2}, {-0.06, -0.04}}, {"dense", {0.02, none, 1}, {}}}});
  CHECK(wellformed(svg) == "");
  for (char const* words : {"A &amp; b", "1+7/63", "−0.050 ± 0.010", "+0.020<"})
    CHECK_THAT(svg, ContainsSubstring(words));
}

TEST_CASE("A picture of intervals has room for long names") {
  std::string const name(60, 'n');
  std::string const svg = picture::draw(picture::interval_plot{"", "", {{name, {1, 1, 2}, {}}}});
  CHECK(std::stod(svg.substr(svg.find("width=\"") + 7)) > 780);
  std::size_t const at = svg.rfind("<text", svg.find(name));
  CHECK(std::stod(svg.substr(svg.find("x=\"", at) + 3)) > 60 * 6.6);
}

TEST_CASE("Pictures of no rows, and of what is no number, are well-formed") {
  CHECK(wellformed(picture::draw(picture::interval_plot{})) == "");
  CHECK(wellformed(
            picture::draw(picture::interval_plot{"", "", {{"a", {none, none, 1}, {none}}}})) == "");
  CHECK(wellformed(picture::draw(picture::interval_plot{"", "", {{"a", {0, 0, 2}, {0}}}})) == "");
}
