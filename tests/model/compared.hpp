// Inputs of networks that are compared, and how far apart their numbers are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <finegrain/base/random.hpp>
#include <vector>

#include "../catch.hpp"

/// Token ids of a vocabulary of V, always the same.
template <int V>
std::vector<std::int32_t> some_ids(std::int64_t count) {
  std::vector<std::int32_t> ids;
  for (std::uint64_t t = 0; t < std::uint64_t(count); ++t)
    ids.push_back(std::int32_t(finegrain::random_word(5, t) % V));
  return ids;
}

/// How far numbers are from the right ones, of the largest of these.
template <class A, class B>
double off(A const& right, B const& got) {
  double largest = 0, magnitude = 0;
  REQUIRE(right.size() == got.size());
  for (std::size_t i = 0; i < right.size(); ++i) {
    magnitude = std::max(magnitude, std::abs(double(right[i])));
    double const d = std::abs(double(right[i]) - double(got[i]));
    if (!(d <= largest)) largest = std::isnan(d) ? INFINITY : d;
  }
  return magnitude > 0 ? largest / magnitude : largest;
}
