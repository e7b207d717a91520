// Losses on the device: their sums stay there, as doubles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/matrix.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// All pointers are to memory of the device. Gradients are `scale` times those of the sum, divided
/// by *terms, at least 1, where terms is not null. *sum += the sum, always in the same order.
template <class T>
struct loss {
  /// *terms = how many targets are not below 0.
  static void count_targets(std::int32_t const* targets, std::int64_t tokens, std::int64_t* terms,
                            CUstream_st* stream);
  /// The sum over tokens of -log softmax(logits)[target], in nats; targets below 0 are left out,
  /// one that is no class makes the sum NaN. dlogits (T, V) may have no data, and may be the
  /// logits. of_token (T) is left with each token's loss.
  static void cross_entropy(matrix<T const> logits, std::int32_t const* targets, double scale,
                            std::int64_t const* terms, matrix<T> dlogits, float* of_token,
                            double* sum, CUstream_st* stream);
  /// The sum of (y - target)^2. dy may have no data, and may be y. partial: squared_error_parts.
  static void squared_error(matrix<T const> y, matrix<T const> target, double scale, matrix<T> dy,
                            double* partial, double* sum, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
