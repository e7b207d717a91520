// What experts tell of domains, and how alike they are.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/specialisation.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("Experts that are used alike tell nothing; an expert a domain tells it all") {
  CHECK(fg::mutual_information({{5, 10}, {5, 10}, {50, 100}}) == Approx(0).margin(1e-12));
  CHECK(fg::mutual_information({{7, 0, 0, 0}, {0, 7, 0, 0}, {0, 0, 7, 0}, {0, 0, 0, 7}}) ==
        Approx(2));
  CHECK(fg::mutual_information({{4, 0}, {2, 2}}) == Approx(0.311278));  // H(1/4) - H(1/2) / 2
  CHECK(std::isnan(fg::mutual_information({{0, 0}})));
  CHECK(std::isnan(fg::mutual_information({})));
}

TEST_CASE("A preference is a share over the mean share, however many tokens a domain has") {
  auto const p = fg::preference({{30, 10, 0}, {100, 300, 0}});
  CHECK(p[0][0] == Approx(1.5));
  CHECK(p[1][0] == Approx(0.5));
  CHECK(p[0][1] == Approx(0.5));
  CHECK(p[1][2] == 0);
  CHECK(fg::preference({}).empty());
}

TEST_CASE("Experts are ordered by the domain that each prefers") {
  fg::number_table const likes = {{0.1, 2.0, 1.9, 0.3}, {1.9, 0.0, 0.1, 1.7}};
  auto const order = fg::by_favourite(likes);
  CHECK(order == std::vector<std::size_t>{1, 2, 0, 3});
  CHECK(fg::columns_in(likes, order)[0] == std::vector<double>{2.0, 1.9, 0.1, 0.3});
  CHECK(fg::by_favourite({}).empty());
}

TEST_CASE("Cosines of rows") {
  auto const c = fg::cosines({{1, 0}, {0, 3}, {-2, 0}, {0, 0}});
  CHECK(c[0][0] == 1);
  CHECK(c[0][1] == 0);
  CHECK(c[0][2] == -1);
  CHECK(c[3][3] == 0);
  CHECK(fg::mean_similarity(c) == Approx(1.0 / 6));
  CHECK(fg::mean_similarity({}) == 0);
}
