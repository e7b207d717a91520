// Random weights, the same on every machine: numbered draws, made of integers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../base/parallel.hpp"
#include "../plan/weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How a network's weights start: every matrix normal with this deviation (DeepSeekMoE trains all
/// sizes from 0.006; small models learn faster from more), or with this deviation over the square
/// root of its inputs; gains 1, selection biases 0.
struct initialisation {
  double deviation = 0.006;
  std::uint64_t seed = 0;
  bool by_inputs = false;
};

/// The n-th of a seed's random 64-bit words (SplitMix64): any order, any thread, the same word.
constexpr std::uint64_t random_word(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t z = seed * 0xd1342543de82ef95u + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The n-th uniform number of a seed, in [0, 1).
constexpr double random_uniform(std::uint64_t seed, std::uint64_t n) {
  return static_cast<double>(random_word(seed, n) >> 11) * 0x1p-53;
}

/// The n-th normal number of a seed: twelve 16-bit numbers added and centred (Irwin-Hall), which
/// is exact in every arithmetic and never leaves six deviations.
constexpr double random_normal(std::uint64_t seed, std::uint64_t n) {
  std::int64_t sum = 0;
  for (std::uint64_t i = 0; i < 3; ++i)
    for (std::uint64_t word = random_word(seed, 3 * n + i), part = 0; part < 4; ++part, word >>= 16)
      sum += static_cast<std::int64_t>(word & 0xffff);
  return (static_cast<double>(sum) - 6.0 * 65535.0) * (1.0 / 65535.5);
}

/// Fills an array of weights. A weight's numbers depend on its name, its place in its matrix and
/// the seed alone: a layer starts alike whatever stands before it.
template <class T>
void initialise(std::vector<weight_entry> const& entries, T* data, initialisation const& how,
                parallel threads = {}) {
  threads(static_cast<std::int64_t>(entries.size()), [&](std::int64_t task, int) {
    weight_entry const& entry = entries[static_cast<std::size_t>(task)];
    std::uint64_t seed = how.seed;
    for (char c : entry.name) seed = random_word(seed, static_cast<unsigned char>(c));
    double const deviation =
        how.by_inputs ? how.deviation / std::sqrt(static_cast<double>(entry.cols)) : how.deviation;
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i)
      data[entry.offset + i] =
          entry.role == role::gain ? T(1)
          : entry.role == role::selection_bias
              ? T(0)
              : static_cast<T>(deviation * random_normal(seed, static_cast<std::uint64_t>(i)));
  });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
