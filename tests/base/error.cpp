// Laws of base/error.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/error.hpp>
#include <memory>
#include <string>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("an exception carries one sentence with its numbers") {
  CHECK_THROWS_WITH(throw fg::invalid_argument("%d rows and %lld columns", 3, 1LL << 40),
                    "3 rows and 1099511627776 columns");
  CHECK_THROWS_WITH(throw fg::file_error("%s: %s", "weights", "it is empty"),
                    "weights: it is empty");
  CHECK_THROWS_WITH(throw fg::invalid_config("top_k is 100%"), "top_k is 100%");
}

TEST_CASE("every exception is a finegrain::error and a std::exception") {
  CHECK_THROWS_AS(throw fg::invalid_config("x"), fg::error);
  CHECK_THROWS_AS(throw fg::invalid_argument("x"), fg::error);
  CHECK_THROWS_AS(throw fg::file_error("x"), fg::error);
  CHECK_THROWS_AS(throw fg::error("x"), std::exception);
}

TEST_CASE("a sentence too long for its place is cut, not overrun") {
  std::string const text(5000, 'a');
  fg::error const e("%s", text.c_str());
  std::string const kept = e.what();
  CHECK(kept.size() > 400);
  CHECK(kept == text.substr(0, kept.size()));
}

TEST_CASE("what a terminal would obey in a name is shown as ?, and letters stay") {
  auto const shown = [](char const* name) { return std::string(fg::error("%s", name).what()); };
  CHECK(shown("a\x1b[2J\n\x7f") == "a?[2J??");
  CHECK(shown("\xc2\x80 \xc2\x9b[2J \xc2\x9f") == "?? ??[2J ??");  // U+0080, U+009B, U+009F
  CHECK(shown("\xc2\xa0 \xc3\x9b \xe2\x82\x80") == "\xc2\xa0 \xc3\x9b \xe2\x82\x80");
  CHECK(shown("\xc2") == "\xc2");
  CHECK(shown("\xc2\n") == "\xc2?");
}

TEST_CASE("a copied exception keeps its sentence") {
  auto e = std::make_unique<fg::error>("number %d", 7);
  fg::error const copy = *e;
  e.reset();
  CHECK(std::string(copy.what()) == "number 7");
}
