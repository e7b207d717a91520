// Scales with round ticks, and drawings that are well-formed whatever they are given.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/svg.hpp>
#include <limits>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace picture = finegrain::picture;

TEST_CASE("Ticks are round numbers inside the scale") {
  picture::scale const s{2.2, 4.6, 0, 100};
  CHECK(s(2.2) == 0);
  CHECK(s(4.6) == 100);
  auto const ticks = s.ticks(5);
  REQUIRE(ticks.size() == 5);
  CHECK(ticks.front() == Approx(2.5));
  CHECK(ticks.back() == Approx(4.5));
  CHECK(s.tick_digits(5) == 1);
  CHECK(picture::scale{0, 512000, 0, 1}.ticks(6).back() == Approx(500000));
  CHECK(picture::scale{0, 512000, 0, 1}.tick_digits(6) == 0);
  CHECK(picture::scale{1.001, 1.009, 0, 1}.tick_digits(4) == 3);
}

TEST_CASE("Ticks are few and inside for scales of any size") {
  for (double low : {-3.7, 0.0, 1e-9, 12345.6})
    for (double length : {1e-6, 0.3, 1.0, 99.0, 1e12}) {
      auto const ticks = picture::scale{low, low + length, 0, 1}.ticks(6);
      CAPTURE(low, length, ticks.size());
      CHECK((ticks.size() >= 3 && ticks.size() <= 10));
      CHECK(ticks.front() >= low - 1e-6 * length);
      CHECK(ticks.back() <= low + length * (1 + 1e-6));
    }
}

TEST_CASE("Numbers so large that no round ones lie between them have no ticks") {
  double const least = std::numeric_limits<double>::epsilon();
  for (double size : {1e17, 1e20, 1e300})
    for (double length : {0.0, 1.0, 2.0, 5.0, 12.0}) {
      CHECK(picture::scale{size, size * (1 + length * least), 0, 1}.ticks(6).size() < 20);
      CHECK(picture::scale{-size * (1 + length * least), -size, 0, 1}.ticks(6).size() < 20);
    }
}

TEST_CASE("A number beside an axis is told from the next tick, whatever its size") {
  CHECK(picture::scale{0, 5e-9, 0, 1}.words(3e-9, 6) == "3e-09");
  CHECK(picture::scale{1e20, 5e20, 0, 1}.words(1.5e20, 6, 2) == "1.5e+20");
  CHECK(picture::scale{0, 3e7, 0, 1}.words(1.5e7, 6) == "15000000");
  CHECK(picture::scale{0, 3e9, 0, 1}.words(1.5e9, 6) == "1.5e+09");
  CHECK(picture::scale{0, 5e-9, 0, 1}.words(0, 6) == "0");
  CHECK(picture::scale{0.94, 1, 0, 1}.words(0.9561, 6) == "0.96");
  CHECK(picture::scale{0.94, 1, 0, 1}.words(0.9561, 6, 1) == "0.956");
  CHECK(picture::scale{0, 5e-9, 0, 1}.words(3.14e-9, 6, 1) == "3.1e-09");
  for (double low : {-3.7, 0.0, 1e-9, 1e-200, 12345.6, -1e17, 1e100})
    for (double length : {1e-9, 0.3, 99.0, 1e12, 1e200}) {
      picture::scale const s{low, low + length, 0, 1};
      auto const ticks = s.ticks(6);
      for (std::size_t i = 1; i < ticks.size(); ++i) {
        CAPTURE(low, length, s.words(ticks[i], 6));
        CHECK(s.words(ticks[i], 6) != s.words(ticks[i - 1], 6));
      }
    }
  CHECK(picture::scale{1e20, 1e20, 0, 1}.tick_digits() > 0);  // none, and no error
}

TEST_CASE("A drawing is well-formed, and words in it are words") {
  picture::drawing d(100, 50);
  d.line({0, 0}, {1, 1}, R"(stroke="#444")");
  d.clip({0, 0}, 10, 10);
  d.box({1, 2}, 3, 4, R"(fill="none")", "a < b & \"c\"");
  d.text({5, 5}, "<script>&amp;\x01");
  d.unclip();
  double const nan = std::numeric_limits<double>::quiet_NaN();
  d.path({{0, nan}, {1, 1}, {nan, 2}, {3, 3}}, R"(fill="none")");
  d.dot({nan, 1}, 2, R"(fill="none")");
  d.line({0, nan}, {1, 1}, R"(stroke="none")");
  CHECK(wellformed(d.svg()) == "");
  CHECK_THAT(d.svg(), ContainsSubstring("&lt;script&gt;&amp;amp;<"));
  CHECK_THAT(d.svg(), ContainsSubstring("d=\"M1 1L3 3\""));
}

TEST_CASE("What lies far outside a drawing stays outside, on its side") {
  for (double const far : {1e20, 1e30, 3e38, 1e100, 1.7e308}) {
    picture::drawing d(100, 50);
    d.line({-far, 1}, {2, far}, R"(stroke="none")");
    CAPTURE(far);
    CHECK_THAT(d.svg(), ContainsSubstring(R"(x1="-1000000" y1="1" x2="2" y2="1000000")"));
  }
}

TEST_CASE("The checker of drawings finds what is wrong") {
  CHECK(wellformed("<svg><g></g></svg>") == "");
  CHECK(wellformed("<svg><g></svg>") != "");
  CHECK(wellformed("<svg><g/>") != "");
  CHECK(wellformed("<svg a=\"1></svg>") != "");
  CHECK(wellformed("<svg a=\"nan\"></svg>") != "");
  CHECK(wellformed("<svg>&bad</svg>") != "");
}

TEST_CASE("Heat goes from light to dark, and what is no number is cold") {
  CHECK(picture::heat_colour(0) == "#f7fbff");
  CHECK(picture::heat_colour(1) == "#08285e");
  CHECK(picture::heat_colour(9) == "#08285e");
  CHECK(picture::heat_colour(std::numeric_limits<double>::quiet_NaN()) == "#f7fbff");
  CHECK(picture::heat_colour(0.5) == "#6baed6");
}

TEST_CASE("A tick at zero has no sign") {
  for (double at : picture::scale{-0.5, 1, 0, 100}.ticks()) CHECK((at != 0 || !std::signbit(at)));
}
