// Command lines, good and bad.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/options.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {
fg::options given(std::vector<std::string> words) {
  static std::vector<std::string> kept;
  kept = std::move(words);
  kept.insert(kept.begin(), "program");
  static std::vector<char*> pointers;
  pointers.clear();
  for (auto& word : kept) pointers.push_back(word.data());
  return {static_cast<int>(pointers.size()), pointers.data()};
}
}  // namespace

TEST_CASE("Options come in any order, with defaults for the others") {
  auto o = given({"--steps", "20", "--out", "there"});
  CHECK(o.text("--out", "here") == "there");
  CHECK(o.number("--steps", 10) == 20);
  CHECK(o.number("--seeds", 3) == 3);
  CHECK(o.real("--clip", 0.1) == 0.1);
  CHECK_NOTHROW(o.done());
}

TEST_CASE("What nobody asked for, and values that are missing or no numbers, are refused") {
  auto unknown = given({"--stepz", "20"});
  unknown.number("--steps", 10);
  CHECK_THROWS_WITH(unknown.done(), ContainsSubstring("--stepz") && ContainsSubstring("--steps"));
  CHECK_THROWS_WITH(
      given({"--steps", "20", "--out", "there", "--steps", "30"}).number("--steps", 1),
      "--steps is given twice");
  CHECK(given({"--out", "--steps", "--steps", "30"}).number("--steps", 1) == 30);
  CHECK_THROWS_AS(given({"--steps"}).number("--steps", 1), fg::invalid_argument);
  CHECK_THROWS_AS(given({"--steps", "2x"}).number("--steps", 1), fg::invalid_argument);
  CHECK_THROWS_AS(given({"--steps", "-2"}).number("--steps", 1), fg::invalid_argument);
  CHECK(given({"--rate", "3e-4"}).real("--rate", 1) == 3e-4);
  CHECK(given({"--rate", "-2"}).real("--rate", 1) == -2);
  for (char const* const word : {"", "x", "1,5", "1e999", "nan", "inf"})
    CHECK_THROWS_WITH(given({"--rate", word}).real("--rate", 1),
                      std::string("--rate needs a number, not \"") + word + "\"");
}
