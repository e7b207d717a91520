// rotary: by how much positions turn the numbers of queries and keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/bounds.hpp"
#include "../base/math.hpp"
#include "../config/architecture.hpp"
#include "extent.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Of each head of `head` numbers `dim` are turned, the last ones if `begin` does not say where they
/// begin: dim / 2 pairs, pair i by position * theta^(-2i/dim), or slower where `yarn` says so.
struct rotary {
  int dim;
  double theta;
  int head = dim;
  bool adjacent = false;  // a pair is the numbers (2i, 2i + 1), not (i, i + dim/2)
  finegrain::yarn yarn = {};
  int begin = head - dim;

  /// Where pair i stands in a head, and how far apart its two numbers are.
  constexpr int first(int i) const { return begin + (adjacent ? 2 * i : i); }
  constexpr int apart() const { return adjacent ? 1 : dim / 2; }

  /// Radians a position, pair by pair: speed = theta^(-2i/dim) * slowed(i).
  double slowed(int i) const {
    if (yarn.factor == 1) return 1;
    double const low = at_least(math::floor(pair_of(double(yarn.fast))), 0.0);
    double const high = at_most(math::ceil(pair_of(double(yarn.slow))), dim - 1.0);
    double const ramp = (i - low) / (high == low ? 0.001 : high - low);
    return 1 - at_most(at_least(ramp, 0.0), 1.0) * (1 - 1 / double(yarn.factor));
  }
  /// What turned numbers are times.
  double size() const { return mscale(double(yarn.mscale)) / mscale(double(yarn.mscale_all)); }
  /// What latent attention's scores are times beside 1 / sqrt(numbers of a query).
  double sharpness() const {
    return mscale(double(yarn.mscale_all)) * mscale(double(yarn.mscale_all));
  }

 private:
  /// The pair, not a whole number, that turns so many times in the original context.
  double pair_of(double turns) const {
    return dim * math::log(yarn.original / (turns * 6.283185307179586)) / (2 * math::log(theta));
  }
  double mscale(double m) const { return 0.1 * m * math::log(double(yarn.factor)) + 1; }
};

/// By how much positions turn attention's heads.
constexpr rotary turn_of(attention_form const& f, int head_dim) {
  return {f.rotary > 0 ? f.rotary : head_dim, f.theta, head_dim, f.adjacent, f.yarn, 0};
}

}  // namespace finegrain::inline FINEGRAIN_ABI
