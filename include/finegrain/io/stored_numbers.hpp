// stored_numbers: the types of numbers in files, each read as a double, and rounded to.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../base/number.hpp"
#include "tensor_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// The number of an e4m3 code: no infinities, and a NaN of either sign.
inline float e4m3_number(std::uint8_t code) {
  if ((code & 127) == 127) return std::numeric_limits<float>::quiet_NaN();
  std::uint32_t const exponent = code >> 3 & 15, fraction = code & 7;
  float const size = exponent == 0 ? static_cast<float>(fraction) * 0x1p-9f
                                   : std::bit_cast<float>((exponent + 120) << 23 | fraction << 20);
  return code & 128 ? -size : size;
}

/// The number of an e8m0 code, a power of two; one code is no number.
inline double e8m0_number(std::uint8_t code) {
  return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1, code - 127);
}

/// The number of an e2m1 code, the lower 4 bits.
inline double e2m1_number(unsigned code) {
  constexpr double sizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -sizes[code & 7] : sizes[code & 7];
}

/// Whether a tensor of this type, where it is read, has FP4: two e2m1 codes in a byte.
constexpr bool is_fp4(dtype type) { return type == dtype::u8 || type == dtype::i8; }
/// Whether a type's numbers, which stand one by one, are read as weights or scales.
constexpr bool is_number(dtype type) {
  return type == dtype::f64 || type == dtype::f32 || type == dtype::f16 || type == dtype::bf16 ||
         type == dtype::f8_e4m3 || type == dtype::f8_e8m0;
}

/// put(i, x) with each number of so many of a type, or of so many bytes of FP4; x is a double.
template <class Put>
void each_number(dtype type, std::byte const* bytes, std::int64_t count, Put&& put) {
  auto const as = [&]<class T>(T number, auto&& value) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(&number, bytes + i * static_cast<std::int64_t>(sizeof number), sizeof number);
      put(i, value(number));
    }
  };
  auto const value = [](auto x) { return to_double(x); };
  switch (type) {
    case dtype::f64: return as(double(), value);
    case dtype::f32: return as(float(), value);
    case dtype::f16: return as(fp16(), value);
    case dtype::bf16: return as(bf16(), value);
    case dtype::i64: return as(std::int64_t(), value);
    case dtype::i32: return as(std::int32_t(), value);
    case dtype::f8_e8m0: return as(std::uint8_t(), e8m0_number);
    case dtype::u8:
    case dtype::i8:  // the lower bits' number first
      for (std::int64_t i = 0; i < count; ++i) {
        auto const codes = std::to_integer<unsigned>(bytes[i]);
        put(2 * i, e2m1_number(codes));
        put(2 * i + 1, e2m1_number(codes >> 4));
      }
      return;
    default: return as(std::uint8_t(), [](auto code) { return to_double(e4m3_number(code)); });
  }
}

/// The nearest number of S, ties to even. 16 bits are made of f32, which alone would round what is close
/// to a tie to that tie: where it could not hold x, its last bit is set (rounding to odd).
template <class S>
S nearest(double x) {
  auto y = static_cast<float>(x);
  if (sizeof(S) < 4 && static_cast<double>(y) != x && x == x) {
    auto bits = std::bit_cast<std::uint32_t>(y);
    bits -= std::abs(static_cast<double>(y)) > std::abs(x);
    y = std::bit_cast<float>(bits | 1);
  }
  return sizeof(S) < 4 ? from_double<S>(static_cast<double>(y)) : from_double<S>(x);
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
