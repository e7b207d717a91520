// The reference's embedding.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/stages.hpp>
#include <finegrain/reference/embed.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using ids = std::vector<std::int32_t>;

TEST_CASE("an embedding looks its rows up") {
  layer<fg::embedding<4, 3>> table;
  ids const tokens{3, 0, 3};
  numbers const y = table.forward({}, {.tokens = 3, .ids = tokens});
  for (int t = 0; t < 3; ++t)
    for (int d = 0; d < 3; ++d)
      CHECK(y[std::size_t(3 * t + d)] == table.weights().table(tokens[std::size_t(t)], d));
}

TEST_CASE("an embedding's gradient adds tokens of one id, and is 0 in rows that none has") {
  layer<fg::embedding<4, 2>> table;
  ids const tokens{3, 0, 3};
  fg::batch const b{.tokens = 3, .ids = tokens};
  numbers const dy{1, 2, 10, 20, 100, 200};
  table.train({}, dy, b);
  CHECK(table.all_gradients() == numbers{10, 20, 0, 0, 0, 0, 101, 202});
  table.train({}, dy, b, fg::gradients::accumulate, 1);
  CHECK(table.all_gradients() == numbers{11, 21, 1, 1, 1, 1, 102, 203});
}

TEST_CASE("a token id that is no row of the table is refused before anything is written") {
  numbers const table(6, 1);
  for (std::int32_t wrong : {-1, 3, 1 << 30}) {
    ids const tokens{0, wrong};
    numbers y(4, 7), dtable(6, 7);
    CHECK_THROWS_AS(embedding_forward(on, tokens, view(table, 3, 2), view(y, 2, 2)),
                    fg::invalid_argument);
    CHECK_THROWS_AS(
        embedding_backward(on, tokens, view(y, 2, 2), view(dtable, 3, 2), fg::gradients::overwrite),
        fg::invalid_argument);
    CHECK(y == numbers(4, 7));
    CHECK(dtable == numbers(6, 7));
  }
  numbers y(4);
  CHECK_THROWS_WITH(embedding_forward(on, ids{0, 5}, view(table, 3, 2), view(y, 2, 2)),
                    "token 1 has the id 5; the embedding's table has 3 rows");
  CHECK_THROWS_WITH(embedding_forward(on, ids{0}, view(table, 3, 2), view(y, 2, 2)),
                    "the batch has 1 token ids for 2 tokens");
}

}  // namespace
