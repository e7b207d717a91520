// Random weights, the same on every machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../base/parallel.hpp"
#include "../base/random.hpp"
#include "../plan/weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How a network's weights start: every matrix normal with this deviation (DeepSeekMoE trains all
/// sizes from 0.006; small models learn faster from more), or with this deviation over the square
/// root of its inputs; gains 1, selection biases 0, tables whole numbers.
struct initialisation {
  double deviation = 0.006;
  std::uint64_t seed = 0;
  bool by_inputs = false;
};

namespace detail {
template <class T>
T number(double x) {
  if constexpr (sizeof(T) < 4)
    return T(static_cast<float>(x));
  else
    return static_cast<T>(x);
}
}  // namespace detail

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
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i) {
      auto const place = static_cast<std::uint64_t>(i);
      data[entry.offset + i] = detail::number<T>(
          entry.role == role::gain             ? 1
          : entry.role == role::selection_bias ? 0
          : entry.role == role::table
              ? static_cast<double>(random_word(seed, place) >> (sizeof(T) < 4 ? 56 : 40))  // exact
              : deviation * random_normal(seed, place));
    }
  });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
