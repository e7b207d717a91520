// Intervals against tables of Student's t.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/statistics.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("t-quantiles are those of the tables") {
  struct row {
    int degrees;
    double t95, t99;
  };
  for (row const r : {row{1, 12.7062, 63.6567}, row{2, 4.30265, 9.92484}, row{3, 3.18245, 5.84091},
                      row{4, 2.77645, 4.60409}, row{9, 2.26216, 3.24984}, row{10, 2.22814, 3.16927},
                      row{30, 2.04227, 2.75000}, row{120, 1.97993, 2.61742}}) {
    CAPTURE(r.degrees);
    CHECK_THAT(fg::student_quantile(0.95, r.degrees), WithinRel(r.t95, 1e-5));
    CHECK_THAT(fg::student_quantile(0.99, r.degrees), WithinRel(r.t99, 1e-5));
  }
  CHECK_THROWS_AS(fg::student_quantile(0.95, 0), fg::invalid_argument);
  CHECK_THROWS_AS(fg::student_quantile(1, 3), fg::invalid_argument);
}

TEST_CASE("A quantile is the inverse of the probability") {
  for (int n = 1; n <= 40; ++n)
    for (double p : {0.1, 0.5, 0.9, 0.999}) {
      CAPTURE(n, p);
      CHECK_THAT(fg::student_within(fg::student_quantile(p, n), n), WithinAbs(p, 1e-12));
    }
}

TEST_CASE("A mean has the interval t s / sqrt n") {
  double const values[] = {1, 2, 3, 4};
  auto const e = fg::estimate_mean(values);
  CHECK(e.mean == 2.5);
  CHECK_THAT(e.half, WithinRel(3.18245 * 1.2909944 / 2, 1e-5));
  CHECK(e.has_interval());
}

TEST_CASE("One value has no interval, and none has no mean") {
  double const one[] = {2.5};
  CHECK(fg::estimate_mean(one).mean == 2.5);
  CHECK_FALSE(fg::estimate_mean(one).has_interval());
  CHECK(std::isnan(fg::estimate_mean({}).mean));
}

TEST_CASE("Paired differences cancel what the pairs share") {
  double const a[] = {10.1, 20.2, 30.3}, b[] = {10.0, 20.0, 30.0};
  auto const e = fg::estimate_difference(a, b);
  CHECK_THAT(e.mean, WithinAbs(0.2, 1e-12));
  CHECK_THAT(e.half, WithinRel(4.30265 * 0.1 / std::sqrt(3.0), 1e-5));
  CHECK_THROWS_AS(fg::estimate_difference(a, {}), fg::invalid_argument);
}

TEST_CASE("Means are told with their intervals, differences with their signs too") {
  CHECK(fg::signed_text({0.5, 0.25, 2}, 2) == "+0.50 ± 0.25");
  CHECK(fg::signed_text({}) == "–");
  CHECK(fg::signed_text({NAN, NAN, 2}) == "nan");
  CHECK(fg::mean_text({2.5, 0.25, 2}, 1) == "2.5 ± 0.2");
  CHECK(fg::mean_text({}) == "–");
  CHECK(fg::mean_text({NAN, NAN, 2}) == "nan");
}
