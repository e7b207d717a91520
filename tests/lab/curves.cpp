// Curves as pictures: well-formed for good data and for bad, labels apart.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/curves.hpp>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace picture = finegrain::picture;

namespace {
double const none = std::numeric_limits<double>::quiet_NaN();
}

TEST_CASE("A picture of curves is well-formed and names what it shows") {
  picture::curve_plot plot{"Loss & more", "tokens", "bits", {}, {{"gzip", 3.1}}, 5};
  plot.curves.push_back({"0+2/16", {{0, 8}, {100, 4}, {200, 3}}, {0.1, 0.1, 0.1}});
  plot.curves.push_back({"1+7/63", {{0, 8}, {100, 3.9}, {200, 2.9}}});
  std::string const svg = picture::draw(plot);
  CHECK(wellformed(svg) == "");
  for (char const* words : {"Loss &amp; more", "0+2/16", "1+7/63", "gzip", ">3.10<", ">2.90<"})
    CHECK_THAT(svg, ContainsSubstring(words));
}

TEST_CASE("Curves that share a colour are broken otherwise") {
  picture::curve_plot plot;
  for (int i = 0; i < 15; ++i)
    plot.curves.push_back(
        {std::string("curve ") + std::to_string(i), {{0, 1.0 * i}, {1, 2.0 * i}}});
  std::string const svg = picture::draw(plot);
  CHECK(wellformed(svg) == "");
  auto const lines = [&](char const* attributes) {
    int n = 0;
    for (std::size_t at = svg.find(attributes); at != svg.npos; at = svg.find(attributes, at + 1))
      ++n;
    return n;
  };
  CHECK(lines(R"(stroke-linejoin="round" stroke="#555555"/>)") == 1);
  CHECK(lines(R"(stroke-linejoin="round" stroke="#555555" stroke-dasharray="7 3"/>)") == 1);
  CHECK(lines(R"(stroke-linejoin="round" stroke="#555555" stroke-dasharray="2 3"/>)") == 1);
}

TEST_CASE(
    "Pictures of nothing, of one point, of equal values, of NaN and of infinity are well-formed") {
  CHECK(wellformed(picture::draw({})) == "");
  CHECK(wellformed(picture::draw({"", "", "", {{"a", {}}}})) == "");
  CHECK(wellformed(picture::draw({"", "", "", {{"a", {{0, 2}}}}})) == "");
  CHECK(wellformed(picture::draw({"", "", "", {{"a", {{0, 2}, {1, 2}}}}})) == "");
  CHECK(wellformed(picture::draw({"", "", "", {{"a", {{0, none}, {1, none}}, {none, none}}}})) ==
        "");
  CHECK(wellformed(picture::draw({"", "", "", {{"a", {{0, 9}, {1, 8}}}}, {}, 5})) == "");
  double const endless = std::numeric_limits<double>::infinity();
  CHECK(wellformed(
            picture::draw({"", "", "", {{"a", {{0, endless}, {1, 2}}}}, {{"l", endless}}})) == "");
}

TEST_CASE("A picture is as high as what it shows, however small or large that is") {
  auto const drawn = [](double from, double to) {
    std::string svg = picture::draw({"", "", "", {{"a", {{0, from}, {1, to}}}}});
    CHECK(wellformed(svg) == "");
    std::size_t const line = svg.find("<circle");  // a dot for each point
    auto const y = [&](std::size_t at) { return std::stod(svg.substr(svg.find("cy=\"", at) + 4)); };
    REQUIRE(line != svg.npos);
    return std::pair(y(line) - y(svg.find("<circle", line + 1)), svg);
  };
  double const whole = drawn(1, 5).first;
  for (double size : {1e-200, 1e-9, 1e-3, 1e5, 1e20, 1e250}) {
    auto const [rise, svg] = drawn(size, 5 * size);
    CHECK(rise == Approx(whole).margin(0.1));
    if (size < 1e-3 || size > 1e5) CHECK_THAT(svg, ContainsSubstring(size < 1 ? ">5e-" : ">5e+"));
  }
  for (double same : {-1e300, -2.0, 0.0, 1e-9, 3.0, 1e20, 1e300})
    CHECK(drawn(same, same).first == 0);
  CHECK_THAT(drawn(1e-9, 1e-9).second, ContainsSubstring(">1e-09<"));
}

TEST_CASE("A point at no place leaves the picture of the others as it is") {
  double const endless = std::numeric_limits<double>::infinity();
  auto const drawn = [](std::vector<picture::point> points) {
    return picture::draw({"", "", "", {{"a", std::move(points)}}});
  };
  std::string const without = drawn({{0, 2}, {1, 3}});
  for (double x : {endless, -endless, none}) CHECK(drawn({{0, 2}, {1, 3}, {x, 4}}) == without);
}

TEST_CASE("A curve whose end the picture does not show has a label in words, and room for it") {
  std::string const svg = picture::draw({"",
                                         "",
                                         "",
                                         {{"a", {{0, 3}, {1, 2}}},
                                          {"far", {{0, 3}, {1, 1e300}}},
                                          {"lost", {{0, 9}, {1, none}}},
                                          {"none", {}}},
                                         {{"level", 7}},
                                         5});
  CHECK(wellformed(svg) == "");
  for (char const* words : {">a<", ">far (above)<", ">lost (above) (then not finite)<",
                            ">none (no values)<", ">level (above)<"})
    CHECK_THAT(svg, ContainsSubstring(words));
}

TEST_CASE("Curves may begin anywhere, and places may be whole numbers alone") {
  picture::curve_plot plot{"", "", "", {{"a", {{1, 2}, {3, 1}}}}};
  CHECK_THAT(picture::draw(plot), ContainsSubstring(">1.4</text>\n<line"));
  plot.whole = true;
  std::string const svg = picture::draw(plot);
  CHECK(wellformed(svg) == "");
  CHECK(svg.find("text-anchor=\"middle\">1.4<") == svg.npos);
  CHECK_THAT(svg, ContainsSubstring(">3<"));
  CHECK(svg.find("text-anchor=\"middle\">0<") == svg.npos);
}

TEST_CASE("Labels at the edge stand apart, in order, inside, and near where they belong") {
  std::vector<picture::detail::edge_label> labels;
  for (double y : {100.0, 101.0, 102.0, 300.0, 399.0, 400.0, 2.0})
    labels.push_back({"", "", "", "", y, 0});
  picture::detail::spread(labels, 0, 400);
  for (std::size_t i = 1; i < labels.size(); ++i) {
    CHECK(labels[i].wanted >= labels[i - 1].wanted);
    CHECK(labels[i].y >= labels[i - 1].y + 15 - 1e-9);
  }
  CHECK(labels.front().y >= 0);
  CHECK(labels.back().y <= 400);
  CHECK(labels[2].y == Approx(101));  // the middle one of three
  CHECK(labels[4].y == Approx(300));
}

TEST_CASE("A picture has room for all names, however many and long") {
  picture::curve_plot plot;
  std::string const name(60, 'n');
  for (int i = 0; i < 50; ++i) plot.curves.push_back({name + std::to_string(i), {{0, 3}, {1, 2}}});
  std::string const svg = picture::draw(plot);
  CHECK(wellformed(svg) == "");
  auto const number = [&](char const* key, std::size_t from) {
    return std::stod(svg.substr(svg.find(key, from) + std::string(key).size()));
  };
  double const width = number("width=\"", 0), height = number("height=\"", 0);
  for (std::size_t at = svg.find("<text"); at != svg.npos; at = svg.find("<text", at + 1)) {
    CHECK(number("y=\"", at) < height);
    if (svg.compare(svg.find('>', at) + 1, 60, name) == 0)
      CHECK(number("x=\"", at) + 62 * picture::detail::character < width);
  }
}

TEST_CASE("A number at the edge has the digits that tell it apart, and room before its name") {
  auto const x_of = [](std::string const& svg, std::string const& words) {
    std::size_t const at = svg.find(">" + words + "<");
    REQUIRE(at != svg.npos);
    return std::stod(svg.substr(svg.rfind("x=\"", at) + 3));
  };
  auto const gap = [&](double end, std::string const& number) {
    std::string const svg = picture::draw({"", "", "", {{"name", {{0, 0.5 * end}, {1, end}}}}});
    CHECK(wellformed(svg) == "");
    return x_of(svg, "name") - x_of(svg, number);
  };
  CHECK(gap(2.5, "2.50") == Approx(32));
  CHECK(gap(1250.25, "1250.25") > 7 * 6.6);
  CHECK(gap(0.00125, "0.00125") > 6 * 6.6);

  picture::curve_plot close{"", "", "", {}};
  for (double end : {0.9561, 0.9582, 0.962, 0.964})
    close.curves.push_back({"", {{0, 0.94}, {20000, end}, {30000, 1}, {40000, end}}});
  std::string const svg = picture::draw(close);
  for (char const* number : {">0.956<", ">0.958<", ">0.962<", ">0.964<", ">0.98<", ">10 k<"})
    CHECK_THAT(svg, ContainsSubstring(number));
}
