// Claims: what a paper says of two models, held against paired runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "statistics.hpp"
#include "table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What the 95 % interval of lower - higher says of "lower is below higher".
enum class verdict { holds, reversed, undecided };

/// Undecided where the interval holds 0, or there is none.
inline verdict verdict_on(estimate const& difference) {
  if (!difference.has_interval()) return verdict::undecided;
  if (difference.mean + difference.half < 0) return verdict::holds;
  if (difference.mean - difference.half > 0) return verdict::reversed;
  return verdict::undecided;
}

/// As a reader is told it.
inline std::string sentence(estimate const& difference) {
  if (difference.count == 0) return "not measured";
  if (std::isnan(difference.mean)) return "undecided: a value is not a number";
  if (!difference.has_interval())
    return std::string("undecided: one seed, which points ") +
           (difference.mean < 0 ? "this way" : "the other way");
  switch (verdict_on(difference)) {
    case verdict::holds: return "holds";
    case verdict::reversed: return "does not hold: the opposite does";
    default:
      return std::string("undecided at 95 %: the mean points ") +
             (difference.mean < 0 ? "this way" : "the other way");
  }
}

/// That values of one model lie below those of another, seed by seed.
struct claim {
  std::string text;
  estimate difference;  // lower - higher

  claim(std::string words, std::vector<double> const& lower, std::vector<double> const& higher)
      : text(std::move(words)),
        difference(lower.size() == higher.size() ? estimate_difference(lower, higher)
                                                 : estimate{}) {}
};

/// One line a claim: what is said, the difference, and what the interval says to it. Of several, the
/// caption says that nothing makes up for their number.
inline table claims_table(std::vector<claim> const& claims) {
  std::string const several = std::to_string(claims.size()) +
                              " claims, each held against a 95 % interval of its own: nothing is "
                              "corrected for their number.";
  table t({"claim: the first is lower", "difference", "here"},
          claims.size() > 1 ? several : std::string());
  for (claim const& c : claims) t.add({c.text, signed_text(c.difference), sentence(c.difference)});
  return t;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
