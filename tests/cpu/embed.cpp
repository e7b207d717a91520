// The embedding on the cpu.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/embed.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using table = fg::embedding<5, 100>;

TEST_CASE("an embedding gives the rows of its ids, and each token adds to its row's gradient") {
  std::vector<std::int32_t> const ids{4, 0, 4};
  layer<table> e;
  fg::batch const b{.tokens = 3, .ids = ids};
  numbers const dy = random_numbers(300, 2);
  e.train({}, dy, b);
  CHECK(
      same(e.y, joined(joined(rows(e.w, 100, 4, 1), rows(e.w, 100, 0, 1)), rows(e.w, 100, 4, 1))));
  for (std::size_t c = 0; c < 100; ++c) {
    CHECK(e.dw[c] == dy[100 + c]);
    CHECK(e.dw[100 + c] == 0);
    CHECK(e.dw[400 + c] == dy[c] + dy[200 + c]);
  }
  e.mode = fg::gradients::accumulate;
  e.before = 7;
  e.train({}, dy, b);
  CHECK(e.dw[3] == 7 + dy[103]);
  CHECK(e.dw[103] == 7);
}

TEST_CASE("an id that is no row of the table is refused before anything is written") {
  layer<table> e;
  for (std::int32_t const bad : {-1, 5}) {
    std::vector<std::int32_t> const ids{0, bad};
    CHECK_THROWS_AS(e.forward({}, {.tokens = 2, .ids = ids}), fg::invalid_argument);
    for (float const number : e.y) CHECK(std::isnan(number));
  }
  CHECK_THROWS_WITH(e.forward({}, {.tokens = 2}), ContainsSubstring("0 token ids for 2 tokens"));
}

}  // namespace
