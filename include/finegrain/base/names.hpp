// Names that are asked for: by patterns, and those that were meant.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Whether a name is one of a pattern's, in which a star stands for any characters, or none.
constexpr bool matches(std::string_view name, std::string_view pattern) {
  auto const star = pattern.find('*');
  if (star == pattern.npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  std::string_view const rest = pattern.substr(star + 1);
  for (std::size_t at = star; at <= name.size(); ++at)
    if (matches(name.substr(at), rest)) return true;
  return false;
}

namespace detail {

/// The entry's name that takes the fewest insertions, deletions and changes to be made of `asked`.
template <class Entry>
std::string nearest_name(std::vector<Entry> const& entries, std::string_view asked) {
  std::string nearest;
  std::size_t least = SIZE_MAX;
  for (Entry const& entry : entries) {
    std::vector<std::size_t> steps;  // from so much of the name as was read to asked's beginnings
    for (std::size_t i = 0; i <= asked.size(); ++i) steps.push_back(i);
    for (char const c : entry.name) {
      std::size_t before = steps[0]++;
      for (std::size_t i = 0; i < asked.size(); ++i)
        before = std::exchange(
            steps[i + 1], std::min({before + (asked[i] != c), steps[i + 1] + 1, steps[i] + 1}));
    }
    if (steps.back() >= least) continue;
    least = steps.back();
    nearest = entry.name;
  }
  return nearest;
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
