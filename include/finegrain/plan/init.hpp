// Random weights, the same on every machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "../base/math.hpp"
#include "../base/number.hpp"
#include "../base/parallel.hpp"
#include "../base/random.hpp"
#include "place.hpp"
#include "weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How a network's weights start: every matrix normal with this deviation (DeepSeekMoE trains all
/// sizes from 0.006; small models learn faster from more), or with this deviation over the square
/// root of its inputs; gains 1, biases 0, tables whole numbers. With a deviation of 0 no random numbers
/// are made, for weights that are read or copied anyway.
struct initialisation {
  double deviation = 0.006;
  std::uint64_t seed = 0;
  bool by_inputs = false;
};

/// The same; throws invalid_argument when the deviation is none.
inline initialisation const& checked(initialisation const& how) {
  if (!(how.deviation >= 0) || how.deviation > 1e30)
    throw invalid_argument("the deviation of first weights must be a number of at least 0, not %g",
                           how.deviation);
  return how;
}

namespace detail {

inline std::uint64_t seed_of(weight_entry const& entry, initialisation const& how) {
  std::uint64_t seed = how.seed;
  for (char c : entry.name) seed = random_word(seed, static_cast<unsigned char>(c));
  return seed;
}
inline double deviation_of(weight_entry const& entry, initialisation const& how) {
  return how.by_inputs ? how.deviation / math::sqrt(static_cast<double>(entry.cols))
                       : how.deviation;
}
constexpr bool starts_at_zero(role r) { return r == role::bias || r == role::selection_bias; }
/// Bits of a table's whole numbers, which T holds exactly.
template <class T>
inline constexpr int table_bits = sizeof(T) < 4 ? 8 : 24;

}  // namespace detail

/// Fills an array of weights. A weight's numbers depend on its name, its place in its matrix and
/// the seed alone: a layer starts alike whatever stands before it.
template <class T>
void initialise(std::vector<weight_entry> const& entries, T* data, initialisation const& how,
                parallel threads = {}) {
  threads(static_cast<std::int64_t>(entries.size()), [&](std::int64_t task, int) {
    weight_entry const& entry = entries[static_cast<std::size_t>(task)];
    std::uint64_t const seed = detail::seed_of(entry, how);
    double const deviation = detail::deviation_of(entry, how);
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i) {
      auto const place = static_cast<std::uint64_t>(i);
      data[entry.offset + i] = detail::from_double<T>(
          entry.role == role::gain             ? 1
          : detail::starts_at_zero(entry.role) ? 0
          : entry.role == role::table
              ? static_cast<double>(random_word(seed, place) >> (64 - detail::table_bits<T>))
          : deviation == 0 ? 0
                           : deviation * random_normal(seed, place));
    }
  });
}

/// A network's first weights, in memory of its executor. Executors of other memory overload this.
template <class X, class Buffer>
void start_weights(X const& on, std::vector<weight_entry> const& entries, Buffer const& to,
                   initialisation const& how) {
  using S = typename X::scalar;
  place<X>::write(on, span_of(to.data(), to.size()), [&](S* numbers, parallel threads) {
    std::fill_n(numbers, to.size(), S(0));
    initialise<S>(entries, numbers, how, threads);
  });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
