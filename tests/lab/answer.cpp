// Answers, and their lines in a log.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/answer.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("An answer reads back from its line") {
  fg::answer a;
  a.bits = {2, 3};
  a.load = {{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}};
  fg::answer const b(a.line(fg::record().set("run", "x")));
  CHECK(b.bits == a.bits);
  CHECK(b.load == a.load);
  CHECK(b.mean() == 2.5);
  CHECK(b.total_load() == fg::number_table{{6, 8}, {10, 12}});
  CHECK(b.by_domain(1) == fg::number_table{{3, 4}, {7, 8}});
  CHECK_THROWS_WITH(b.by_domain(2), "there is no router 2: the model has 2");
  CHECK(fg::means({a, a}) == std::vector<double>{2.5, 2.5});
}
