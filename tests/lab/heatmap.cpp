// Expert load as a picture.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/heatmap.hpp>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace picture = finegrain::picture;

TEST_CASE("A picture of load is well-formed, with a cell for each expert, busiest first") {
  std::string const svg = picture::draw_load("Load", {{"1+1/3", {{1, 5, 3}, {3, 3, 3}}}});
  CHECK(wellformed(svg) == "");
  CHECK_THAT(svg, ContainsSubstring("1+1/3"));
  CHECK_THAT(svg, ContainsSubstring(">router 1<"));
  CHECK_THAT(picture::draw_load("", {{"a", {{1, 2}}, {"layer 3"}}}),
             ContainsSubstring(">layer 3<"));
  auto const cell = [&](char const* tip) { return svg.find("<title>" + std::string(tip)); };
  CHECK(cell("1.67") < cell("1.00"));
  CHECK(cell("1.00") < cell("0.33"));
  CHECK(cell("0.33") != svg.npos);
}

TEST_CASE("A picture of no models, and of experts that nobody used, is well-formed") {
  CHECK(wellformed(picture::draw_load("Load", {})) == "");
  CHECK(wellformed(picture::draw_load("Load", {{"a", {{0, 0, 0}}}})) == "");
  CHECK(wellformed(picture::draw_load("Load", {{"a", {}}})) == "");
}
