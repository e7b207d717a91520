// Matrices as pictures.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/grid.hpp>
#include <limits>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace picture = finegrain::picture;

TEST_CASE("A picture of matrices is well-formed, with a cell a number and names of rows") {
  std::string const svg = picture::draw_grids(
      "Title", "note", {{"a", {{0, 1}, {2, 3}}, {"x", "y"}}, {"b", {{1}}, {}, 5}}, 0, 3);
  CHECK(wellformed(svg) == "");
  for (char const* words : {">Title<", ">note<", ">a<", ">x<", ">y<", "<title>2.00<"})
    CHECK_THAT(svg, ContainsSubstring(words));
}

TEST_CASE("Signed colours are white at 0, blue above and orange below") {
  CHECK(picture::signed_colour(0) == picture::heat_colour(0));
  CHECK(picture::signed_colour(1) == picture::heat_colour(1));
  CHECK(picture::signed_colour(-1) == "#b04c00");
  CHECK(picture::signed_colour(-5) == "#b04c00");
  CHECK(picture::signed_colour(std::numeric_limits<double>::quiet_NaN()) ==
        picture::heat_colour(0));
}

TEST_CASE("Pictures of nothing and of what is no number are well-formed") {
  double const none = std::numeric_limits<double>::quiet_NaN();
  CHECK(wellformed(picture::draw_grids("", "", {}, 0, 1)) == "");
  CHECK(wellformed(picture::draw_grids("", "", {{"a", {}}}, 0, 1)) == "");
  CHECK(wellformed(picture::draw_grids("", "", {{"a", {{}}}}, -1, 1)) == "");
  CHECK(wellformed(picture::draw_grids("", "", {{"a", {{none}}}}, -1, 1)) == "");
}
