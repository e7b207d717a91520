// random_numbers: fills weights on the device with random numbers, the same as the host's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The numbers of one weight matrix: normal with a deviation, a constant, or whole numbers.
struct random_range {
  enum kinds : std::int32_t { normal, constant, whole };
  std::int64_t offset = 0, count = 0;
  std::uint64_t seed = 0;
  double value = 0;                      // the deviation, or the constant
  std::int32_t kind = normal, bits = 0;  // of whole numbers
};

template <class T>
struct random_numbers {
  /// The list of ranges is in memory of the device.
  static void fill(random_range const* ranges, std::int64_t count, T* to, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
