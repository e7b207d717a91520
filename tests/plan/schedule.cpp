// The learning rate's factor at the corners of each schedule.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/schedule.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("without a word the factor is always 1") {
  for (std::int64_t step : {0, 1, 1000, 1'000'000'000}) CHECK(fg::schedule{}.at(step) == 1);
}

TEST_CASE("warm-up rises in equal steps to 1 and never starts at 0") {
  fg::schedule const s{.warmup = 4};
  CHECK(s.at(0) == 0.25);
  CHECK(s.at(1) == 0.5);
  CHECK(s.at(2) == 0.75);
  CHECK(s.at(3) == 1);
  CHECK(s.at(4) == 1);
}

TEST_CASE("steps fall by 0.316 at 80 % of the run and again at 90 %") {
  fg::schedule const s{.warmup = 10, .steps = 100, .decay = fg::decay::steps};
  CHECK(s.at(9) == 1);
  CHECK(s.at(79) == 1);
  CHECK(s.at(80) == 0.316);
  CHECK(s.at(89) == 0.316);
  CHECK(s.at(90) == 0.316 * 0.316);
  CHECK(s.at(1000) == 0.316 * 0.316);
  fg::schedule const odd{.steps = 7, .decay = fg::decay::steps};  // 5.6 and 6.3
  CHECK(odd.at(5) == 1);
  CHECK(odd.at(6) == 0.316);
}

TEST_CASE("a cosine falls from 1 after warm-up, by half in the middle, to its last value") {
  fg::schedule const s{.warmup = 10, .steps = 110, .decay = fg::decay::cosine, .last = 0.2};
  CHECK(s.at(4) == 0.5);
  CHECK(s.at(10) == 1);
  CHECK(s.at(60) == Approx(0.6));
  CHECK(s.at(110) == 0.2);
  CHECK(s.at(5000) == 0.2);
  for (std::int64_t step = 10; step < 110; ++step) CHECK(s.at(step + 1) < s.at(step));
}

TEST_CASE("a schedule that warms up over less than no steps, or decays over none, is refused") {
  CHECK_THROWS_AS(fg::checked(fg::schedule{.warmup = -1}), fg::invalid_argument);
  CHECK_THROWS_AS(fg::checked(fg::schedule{.warmup = 10, .decay = fg::decay::cosine}),
                  fg::invalid_argument);
  CHECK_NOTHROW(fg::checked(fg::schedule{.warmup = 10}));
  CHECK_NOTHROW(fg::checked(fg::schedule{.steps = 10, .decay = fg::decay::cosine, .last = 0}));
  for (double const last : {-0.1, double(NAN), double(INFINITY)})
    CHECK_THROWS_WITH(fg::checked(fg::schedule{.last = last}),
                      ContainsSubstring("a cosine ends at a factor of at least 0"));
  CHECK_THROWS_WITH(fg::checked(fg::schedule{.steps = INT64_MAX, .decay = fg::decay::steps}),
                    ContainsSubstring("cannot decay over 9223372036854775807 steps"));
}
