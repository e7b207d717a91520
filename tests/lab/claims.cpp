// Claims: what intervals say to them.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/lab/claims.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("A claim holds or is reversed where the interval is clear of zero, else it is open") {
  CHECK(fg::verdict_on({-0.2, 0.1, 3}) == fg::verdict::holds);
  CHECK(fg::verdict_on({0.2, 0.1, 3}) == fg::verdict::reversed);
  CHECK(fg::verdict_on({-0.1, 0.2, 3}) == fg::verdict::undecided);
  CHECK(fg::verdict_on({-0.1, 0.1, 3}) == fg::verdict::undecided);
  CHECK(fg::verdict_on(fg::estimate_mean(std::vector<double>{-1})) == fg::verdict::undecided);
  CHECK(fg::verdict_on({}) == fg::verdict::undecided);
}

TEST_CASE("A claim subtracts seed by seed: what seeds share does not blur it") {
  fg::claim const c("a < b", {2.0, 3.0, 4.0}, {2.1, 3.1, 4.11});
  CHECK(c.difference.mean == Approx(-0.31 / 3));
  CHECK(fg::sentence(c.difference) == "holds");
  CHECK(fg::sentence(fg::claim("", {2.1, 3.1, 4.11}, {2, 3, 4}).difference) ==
        "does not hold: the opposite does");
}

TEST_CASE("What cannot be decided is said, and where it points") {
  CHECK_THAT(fg::sentence(fg::claim("", {1.0, 5.0}, {2.0, 4.5}).difference),
             ContainsSubstring("undecided at 95 %: the mean points this way"));
  CHECK_THAT(fg::sentence(fg::claim("", {2.0}, {1.0}).difference),
             ContainsSubstring("one seed, which points the other way"));
  double const lost = std::numeric_limits<double>::quiet_NaN();
  CHECK(fg::sentence(fg::claim("", {1.0, lost}, {2.0, 3.0}).difference) ==
        "undecided: a value is not a number");
  CHECK(fg::sentence(fg::claim("", {1.0, 2.0}, {1.0}).difference) == "not measured");
  CHECK(fg::sentence(fg::claim("", {}, {}).difference) == "not measured");
}

TEST_CASE("Claims are a table") {
  std::string const csv = fg::claims_table({{"a < b", {2.0, 3.0}, {2.5, 3.5}}}).csv();
  CHECK_THAT(csv, ContainsSubstring("a < b,−0.500 ± 0.000,holds\n"));
  CHECK(fg::claims_table({{"", {}, {}}}).html().find("caption") == std::string::npos);
  CHECK_THAT(fg::claims_table({{"", {}, {}}, {"", {}, {}}}).html(),
             ContainsSubstring("2 claims, each held against a 95 % interval of its own"));
}
