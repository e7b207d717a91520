// format: how a number is stored, as far as counting bytes needs to know.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Storage formats of weights and activations. Quantised ones (fp8, int8, int4) come with scales,
/// which are counted where they are stored, not here.
enum class format { f64, f32, bf16, fp8, int8, int4 };

/// Bits of one number.
constexpr int bits(format f) {
  constexpr int of[] = {64, 32, 16, 8, 8, 4};
  return of[static_cast<int>(f)];
}

/// Bytes of so many numbers, packed, rounded up to a whole byte.
constexpr std::int64_t bytes(std::int64_t numbers, format f) { return (numbers * bits(f) + 7) / 8; }

}  // namespace finegrain::inline FINEGRAIN_ABI
