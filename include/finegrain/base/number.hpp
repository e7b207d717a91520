// format: how a number is stored, as far as counting bytes needs to know.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
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

/// The nearest number that bf16 has, ties to even; NaN stays.
template <class S>
S rounded_to_bf16(S x) {
  auto const number = static_cast<float>(x);
  if (std::isnan(number)) return x;
  auto const bits = __builtin_bit_cast(std::uint32_t, number);
  return static_cast<S>(
      __builtin_bit_cast(float, (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u));
}

/// A number stored in 16 bits, the upper half of an f32. It is converted and stored, not computed
/// with.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  FINEGRAIN_HD explicit bf16(float x) {
    auto const word = __builtin_bit_cast(std::uint32_t, x);
    bits = static_cast<std::uint16_t>(x != x ? (word >> 16) | 0x40
                                             : (word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  FINEGRAIN_HD explicit operator float() const {
    return __builtin_bit_cast(float, std::uint32_t{bits} << 16);
  }
};

/// Numbers that are each the sum of two: one of T, and what rounding to T left of it.
template <class T>
struct summed {
  T const *first = nullptr, *rest = nullptr;  // without a rest, the first are all there is

  FINEGRAIN_HD float operator[](std::int64_t i) const {
    auto const a = static_cast<float>(first[i]), b = rest ? static_cast<float>(rest[i]) : 0.0f;
    return (b < 0 ? -b : b) * 256 <= (a < 0 ? -a : a) ? a + b : a;  // else a is newer than b
  }
  static void write(float x, T& first, T& rest) {
    first = T(x);
    rest = T(x - static_cast<float>(first));
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
