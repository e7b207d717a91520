// What a run says where nobody watches.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <finegrain/lab/progress.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("The renewed line is written to terminals only, the lines that stay anywhere") {
  std::FILE* const file = std::tmpfile();
  REQUIRE(file);
  {
    fg::progress p(file);
    for (int i = 0; i < 1000; ++i) p.show("working");
    CHECK(std::ftell(file) == 0);
    p.say("done");
    p.show("more");
  }
  std::rewind(file);
  char text[64] = {};
  CHECK(std::fread(text, 1, sizeof text, file) == 5);
  CHECK(std::string(text) == "done\n");
  std::fclose(file);
}

TEST_CASE("A timer does not run backwards") {
  fg::timer watch;
  double const first = watch.seconds();
  CHECK(first >= 0);
  CHECK(watch.seconds() >= first);
}

TEST_CASE("What is left takes as long as what is done did, and nothing is left in the end") {
  fg::timer const watch;
  fg::time_left left;
  left.expect(40);
  left.skip(10);
  left.done(10);
  double const twice = left.seconds();
  CHECK(twice >= 0);
  CHECK(twice <= 2 * watch.seconds());
  left.done(20);
  CHECK(left.seconds() == 0);
}
