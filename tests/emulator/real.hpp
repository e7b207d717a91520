// Real numbers as the device rounds them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <finegrain/base/number.hpp>
#include <limits>

#include "machine.hpp"

namespace emulator {

enum class rounding { to_zero, down, up, to_odd };

/// a + b as f32: what the nearest number of f64 leaves says to which side the sum is of it. To odd
/// is for who rounds once more.
template <rounding R>
f32 rounded(f64 a, f64 b) {
  f64 const sum = a + b, part = sum - a, rest = (a - (sum - part)) + (b - part);
  f32 const near = static_cast<f32>(sum);
  bool const above = near > sum || (near == sum && rest < 0);
  bool const below = near < sum || (near == sum && rest > 0);
  constexpr f32 infinity = std::numeric_limits<f32>::infinity();
  f32 const down = above ? std::nextafter(near, -infinity) : near;
  f32 const up = below ? std::nextafter(near, infinity) : near;
  if constexpr (R == rounding::down) return down;
  if constexpr (R == rounding::up) return up;
  f32 const to_zero = sum > 0 ? down : up;
  if constexpr (R == rounding::to_zero) return to_zero;
  return down == up ? near : std::bit_cast<f32>(std::bit_cast<u32>(to_zero) | 1);
}

inline f32 from_bf16(u16 x) { return std::bit_cast<f32>(u32{x} << 16); }
inline u16 to_bf16(f32 x) {
  auto const bits = std::bit_cast<u32>(x);
  return static_cast<u16>(x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
/// Without branches: many of them are converted at once.
inline f32 from_half(u16 x) {
  u32 const bits = (x & 0x7fffu) << 13, infinity = 0x7c00u << 13;
  u32 const size = std::bit_cast<u32>(std::bit_cast<f32>(bits) * 0x1p112f);
  return std::bit_cast<f32>((bits >= infinity ? bits | 0x7f800000 : size) | (x & 0x8000u) << 16);
}
inline u16 to_half(f32 x) { return finegrain::fp16(x).bits; }
/// e4m3 has no infinity: 448 is its most.
inline f32 from_e4m3(u8 x) {
  int const exponent = x >> 3 & 15, mantissa = x & 7;
  if ((x & 127) == 127) return std::numeric_limits<f32>::quiet_NaN();
  f32 const size = exponent == 0 ? std::ldexp(static_cast<f32>(mantissa), -9)
                                 : std::ldexp(static_cast<f32>(8 + mantissa), exponent - 10);
  return x & 128 ? -size : size;
}
inline u8 to_e4m3(f32 x) {
  u8 const sign = std::signbit(x) ? 128 : 0;
  if (x != x) return 127;
  f32 const size = std::min(std::fabs(x), 448.0f);
  int const exponent = std::max(size > 0 ? std::ilogb(size) : -6, -6);
  auto const units = static_cast<int>(std::nearbyint(std::ldexp(size, 3 - exponent)));
  return static_cast<u8>(sign | (units + 8 * (exponent + 6)));
}

}  // namespace emulator
