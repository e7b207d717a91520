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

TEST_CASE("What is said of all layers stands in a line of the model's own, above its layers") {
  std::string const svg = picture::draw_load("Load", {{"1+1/3", {{1, 5, 3}, {3, 3, 3}}}});
  auto const height = [&](std::string const& words) {
    std::size_t const at = svg.find(words);
    REQUIRE(at != svg.npos);
    return std::stod(svg.substr(svg.find(" y=\"", svg.rfind("<text", at)) + 4));
  };
  double const all = height(">all layers: largest max/mean 1.67, mean variation 0.27<");
  CHECK(all == height(">1+1/3<"));
  CHECK(all + 12 < height(">router 0<"));
  CHECK(height(">router 0<") < height(">router 1<"));
}

TEST_CASE("A picture of no models, and of experts that nobody used, is well-formed") {
  CHECK(wellformed(picture::draw_load("Load", {})) == "");
  CHECK(wellformed(picture::draw_load("Load", {{"a", {{0, 0, 0}}}})) == "");
  CHECK(wellformed(picture::draw_load("Load", {{"a", {}}})) == "");
}
