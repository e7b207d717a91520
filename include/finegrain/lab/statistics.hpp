// Means with 95 % intervals, and paired differences: what an ablation may claim from a few seeds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "../base/error.hpp"
#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// P(|t| <= x) of Student's distribution with n degrees of freedom, n >= 1: the finite series for
/// whole n [Abramowitz and Stegun 26.7.3, 26.7.4].
inline double student_within(double x, int n) {
  double const theta = std::atan(x / std::sqrt(static_cast<double>(n)));
  double const s = std::sin(theta), c2 = std::cos(theta) * std::cos(theta);
  double term = n % 2 == 0 ? s : s * std::cos(theta), sum = n == 1 ? 0 : term;
  for (int i = n % 2 == 0 ? 2 : 3; i < n; i += 2) {
    term *= c2 * (i - 1) / i;
    sum += term;
  }
  return n % 2 == 0 ? sum : 2 / 3.14159265358979323846 * (theta + sum);
}

/// The x with P(|t| <= x) = probability: 12.706 for 0.95 and one degree of freedom.
inline double student_quantile(double probability, int degrees) {
  if (degrees < 1 || !(probability > 0 && probability < 1))
    throw invalid_argument(
        "a t-quantile needs a degree of freedom and a probability inside (0, 1)");
  double low = 0, high = 1;
  while (student_within(high, degrees) < probability) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-14 * high; ++i) {
    double const middle = (low + high) / 2;
    (student_within(middle, degrees) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// A mean and the half width of its 95 % interval; NaN where one value alone was seen.
struct estimate {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double half = std::numeric_limits<double>::quiet_NaN();
  int count = 0;

  bool has_interval() const { return count > 1; }
};

/// Of values that are independent and about normal: mean +- t s / sqrt(n).
inline estimate estimate_mean(std::span<double const> values) {
  estimate e;
  e.count = static_cast<int>(values.size());
  if (e.count == 0) return e;
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  e.mean = sum / e.count;
  for (double v : values) squares += (v - e.mean) * (v - e.mean);
  if (e.count > 1)
    e.half = student_quantile(0.95, e.count - 1) * std::sqrt(squares / (e.count - 1) / e.count);
  return e;
}

/// Of the differences a[i] - b[i], pair by pair: what the pairs share cancels.
inline estimate estimate_difference(std::span<double const> a, std::span<double const> b) {
  if (a.size() != b.size())
    throw invalid_argument("paired differences need as many values on both sides, not %zu and %zu",
                           a.size(), b.size());
  std::vector<double> differences(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) differences[i] = a[i] - b[i];
  return estimate_mean(differences);
}

/// A mean with its interval: 2.560 ± 0.010; a dash where nothing was measured, nan where a value is
/// none.
inline std::string mean_text(estimate const& e, int digits = 3) {
  if (e.count == 0) return "–";
  std::string const out = text::fixed(e.mean, digits);
  if (std::isnan(e.mean)) return out;
  return e.has_interval() ? out + " ± " + text::fixed(e.half, digits) : out;
}

/// A difference with its sign and interval: −0.044 ± 0.010; a dash where nothing was measured,
/// nan where a value is none.
inline std::string signed_text(estimate const& e, int digits = 3) {
  if (e.count == 0) return "–";
  std::string out = text::fixed(e.mean, digits);
  if (std::isnan(e.mean)) return out;
  out = out[0] == '-' ? "−" + out.substr(1) : "+" + out;
  return e.has_interval() ? out + " ± " + text::fixed(e.half, digits) : out;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
