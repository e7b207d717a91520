// Numbers as they are stored: the formats, and bf16, fp16 and sums of two as types.
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

/// Its name above.
constexpr char const* name_of(format f) {
  constexpr char const* of[] = {"f64", "f32", "bf16", "fp8", "int8", "int8_block", "int4"};
  return of[static_cast<int>(f)];
}

/// Bits of one number.
constexpr int bits(format f) {
  constexpr int of[] = {64, 32, 16, 8, 8, 8, 4};
  return of[static_cast<int>(f)];
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

/// The nearest number that bf16 has, ties to even; NaN stays NaN.
template <class S>
S rounded_to_bf16(S x) {
  return static_cast<S>(static_cast<float>(bf16(static_cast<float>(x))));
}

/// x rounded by chance to the number of bf16 below or above, to each as often as x is near to it, so that
/// it is right in the mean: `draw` is uniform in 0 ... 65535. What bf16 holds, infinity and NaN stay.
FINEGRAIN_HD inline bf16 rounded_by(float x, std::uint32_t draw) {
  bf16 made(x);
  auto const word = __builtin_bit_cast(std::uint32_t, x);
  if (x == x) made.bits = static_cast<std::uint16_t>((word + draw) >> 16);
  return made;
}

/// A number stored in 16 bits as IEEE 754 has it: 11 bits of precision, 65504 at most. It is
/// converted, to the nearest, ties to even, and stored, not computed with.
struct fp16 {
  std::uint16_t bits = 0;

  fp16() = default;
  FINEGRAIN_HD explicit fp16(float x) {
    auto const word = __builtin_bit_cast(std::uint32_t, x), size = word & 0x7fffffff;
    std::uint32_t made;
    if (size > 0x7f800000)  // NaN stays, and becomes quiet
      made = 0x7e00 | (size >> 13 & 0x3ff);
    else if (size >= 0x477ff000)  // 65520
      made = 0x7c00;
    else if (size >= 0x38800000)  // 2^-14
      made = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    else  // 0.5 has a step of 2^-24, as these have
      made = __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, size) + 0.5f) - 0x3f000000;
    bits = static_cast<std::uint16_t>((word >> 16 & 0x8000) | made);
  }
  FINEGRAIN_HD explicit operator float() const {
    std::uint32_t const sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31,
                        fraction = bits & 0x3ffu;
    std::uint32_t const size =
        exponent == 0 ? __builtin_bit_cast(std::uint32_t, static_cast<float>(fraction) * 0x1p-24f)
                      : (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    return __builtin_bit_cast(float, sign | size);
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

namespace detail {

/// A number of any type as a double.
template <class S>
double to_double(S x) {
  if constexpr (sizeof(S) == 2)
    return static_cast<double>(static_cast<float>(x));
  else
    return static_cast<double>(x);
}
/// A double as a number of any type.
template <class T>
T from_double(double x) {
  if constexpr (sizeof(T) < 4)
    return T(static_cast<float>(x));
  else
    return static_cast<T>(x);
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
