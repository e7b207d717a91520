// Random numbers, the same on every machine: numbered draws, made of integers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The n-th of a seed's random 64-bit words (SplitMix64): any order, any thread, the same word.
FINEGRAIN_HD constexpr std::uint64_t random_word(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t z = seed * 0xd1342543de82ef95u + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The n-th uniform number of a seed, in [0, 1).
FINEGRAIN_HD constexpr double random_uniform(std::uint64_t seed, std::uint64_t n) {
  return static_cast<double>(random_word(seed, n) >> 11) * 0x1p-53;
}

/// The n-th normal number of a seed: twelve 16-bit numbers added and centred (Irwin-Hall), which
/// is exact in every arithmetic and never leaves six deviations.
FINEGRAIN_HD constexpr double random_normal(std::uint64_t seed, std::uint64_t n) {
  std::int64_t sum = 0;
  for (std::uint64_t i = 0; i < 3; ++i)
    for (std::uint64_t word = random_word(seed, 3 * n + i), part = 0; part < 4; ++part, word >>= 16)
      sum += static_cast<std::int64_t>(word & 0xffff);
  return (static_cast<double>(sum) - 6.0 * 65535.0) * (1.0 / 65535.5);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
