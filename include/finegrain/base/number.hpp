// format: how a number is stored, as far as counting bytes needs to know.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Storage formats of weights and activations. Quantised numbers come with bf16 scales, which are
/// counted where they are stored, not here:
///
///   fp8          e4m3, a scale for 128 x 128 weights
///   int8         -127 ... 127, a scale for an output channel
///   int8_block   the same, a scale for 32 of a channel's weights
///   int4         -8 ... 7, a scale for 32 of a channel's weights
enum class format { f64, f32, bf16, fp8, int8, int8_block, int4 };

/// Bits of one number.
constexpr int bits(format f) {
  constexpr int of[] = {64, 32, 16, 8, 8, 8, 4};
  return of[static_cast<int>(f)];
}

/// Bytes of so many numbers, packed, rounded up to a whole byte.
constexpr std::int64_t bytes(std::int64_t numbers, format f) { return (numbers * bits(f) + 7) / 8; }

}  // namespace finegrain::inline FINEGRAIN_ABI
