// The batch: token ids from whatever holds them, and where a row stands.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/kv_cache.hpp>

#include <Eigen/Core>
#include <array>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("token ids come from a vector, an array or an Eigen vector, uncopied") {
  std::vector<std::int32_t> const vector{3, 1, 2};
  std::array<std::int32_t, 2> const array{5, 6};
  Eigen::VectorXi eigen(4);
  eigen << 1, 2, 3, 4;
  CHECK(fg::id_list(vector).data() == vector.data());
  CHECK(fg::id_list(array).size() == 2);
  CHECK(fg::id_list(eigen).data() == eigen.data());
  CHECK(fg::id_list(eigen.segment(1, 2)).size() == 2);
  fg::batch const b{.tokens = 4, .ids = eigen};
  CHECK(b.ids[3] == 4);
}

TEST_CASE("Eigen ids must be one contiguous vector") {
  Eigen::Matrix<int, 3, 2> const columns = Eigen::Matrix<int, 3, 2>::Zero();
  CHECK_THROWS_AS(fg::id_list(columns), fg::invalid_argument);
  Eigen::Matrix<int, 3, 2, Eigen::RowMajor> const rows = columns;
  CHECK_THROWS_AS(fg::id_list(rows.col(0)), fg::invalid_argument);
}

TEST_CASE("a row's position counts from its sequence's first, or is what the batch says") {
  std::vector<std::int64_t> const starts{0, 3, 5}, positions{7, 8, 9, 0, 4};
  fg::batch b{.tokens = 5, .starts = starts};
  std::vector<std::int64_t> const lengths{10, 20};
  fg::earlier const none, some{.lengths = lengths, .capacity = 30};
  CHECK(none.position(b, 1, 0) == 1);
  CHECK(none.position(b, 4, 1) == 1);
  CHECK(none.first_row(b, 1) == 3);
  CHECK(some.position(b, 1, 0) == 11);
  CHECK(some.position(b, 4, 1) == 21);
  CHECK(some.first_row(b, 1) == 30);
  CHECK(none.none());
  CHECK_FALSE(some.none());
  b.positions = positions;
  CHECK(none.position(b, 4, 1) == 4);
  CHECK(some.position(b, 4, 1) == 4);
}
