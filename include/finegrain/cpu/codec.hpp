// codec: what the codes of a quantised format mean, and how they become units of a product.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>

#include "../base/math.hpp"
#include "integers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Formats whose numbers are codes with scales.
template <format F>
concept Quantised =
    F == format::fp8 || F == format::int8 || F == format::int8_block || F == format::int4;

/// A quantised format. A number is scale * value(code); bf16 holds every value.
///
///   bits            of a code
///   block           numbers along k that share a scale; 0: all of them
///   outputs         channels that share it
///   scale(most)     for numbers of which `most` is the largest, with its sign
///   code(x)         the code nearest to x, a number without its scale
///   value(code)                     of one
///   values(top, shifted)            of a vector of them, in the top bits of 32, which were shifted up
///                                   by so many, as multiples of
///   times                           this power of 2
///   zero                            instead, where products are of integers: value(code) is code - zero
///   products                        what they are multiplied in
template <format F>
struct codec;

template <>
struct codec<format::int8> {
  static constexpr format products = as_integers ? format::int8 : format::bf16;
  static constexpr int bits = 8, block = 0, outputs = 1, zero = as_integers ? 128 : 0;
  static float scale(float most) { return math::abs(most) / 127; }
  static std::uint32_t code(float x) {
    return static_cast<std::uint32_t>(std::clamp(math::lrint(x), -127l, 127l) + zero) & 255;
  }
  static constexpr float value(std::uint32_t code) {
    return static_cast<float>(code) - (as_integers ? 128.0f : code < 128 ? 0.0f : 256.0f);
  }
  /// The top byte where it stands: to shift it down, too, would take as long as all else on some machines.
  static constexpr float times = as_integers ? 1 : 0x1p-24f;
  FINEGRAIN_INLINE static vec values(ivec top, int shifted) {
    return __builtin_convertvector(shifted < 24 ? top & -0x1000000 : top, vec);
  }
};
template <>
struct codec<format::int8_block> : codec<format::int8> {
  static constexpr format products =
      Integers<format::int8_block> ? format::int8_block : codec<format::int8>::products;
  static constexpr int block = 32;
};

template <>
struct codec<format::int4> {
  static constexpr int bits = 4, block = 32, outputs = 1, zero = 8;
  static constexpr format products = as_integers ? format::int4 : format::bf16;
  static constexpr float times = 1;
  static float scale(float most) { return most / -8; }  // that number is met as bf16 has it
  static std::uint32_t code(float x) {
    return static_cast<std::uint32_t>(std::clamp(math::lrint(x), -8l, 7l) + zero);
  }
  static constexpr float value(std::uint32_t code) {
    return static_cast<float>(static_cast<int>(code) - zero);
  }
  FINEGRAIN_INLINE static vec values(ivec top, int) {
    return __builtin_convertvector((top ^ INT32_MIN) >> 28, vec);
  }
};

template <>
struct codec<format::fp8> {
  static constexpr format products = format::bf16;
  static constexpr int bits = 8, block = 128, outputs = 128;
  static constexpr float times = 1;
  static float scale(float most) { return math::abs(most) / 448; }
  static std::uint32_t code(float x) {
    float const a = std::min(math::abs(x), 448.0f);
    int const e = a < 0x1p-6f ? -6 : math::ilogb(a);
    // a = q * 2^(e - 3) with q in 8 ... 16, or below 8 where numbers are subnormal; 16 carries over
    auto const q = static_cast<std::uint32_t>(math::nearbyint(math::ldexp(a, 3 - e)));
    return ((static_cast<std::uint32_t>(e + 6) << 3) + q) | (math::signbit(x) ? 128u : 0u);
  }
  static constexpr float value(std::uint32_t code) {
    int const e = static_cast<int>(code >> 3 & 15), m = static_cast<int>(code & 7);
    float v = static_cast<float>(e == 0 ? m : m + 8);
    for (int i = e == 0 ? 1 : e; i > 10; --i) v *= 2;
    for (int i = e == 0 ? 1 : e; i < 10; ++i) v /= 2;
    return code & 128 ? -v : v;
  }
  /// Sign and magnitude as bits of a float mean the value times 2^-120, subnormal ones too.
  FINEGRAIN_INLINE static vec values(ivec top, int) {
    return reinterpret_cast<vec>((top >> 4) & -0x78100000) * 0x1p120f;
  }
};

/// Codes stand in 32 bits a lane: of unit u, the first number's code from bit bits * u on, and the
/// second's 16 bits higher.
template <format F>
inline constexpr int units_of_codes = 16 / codec<F>::bits;
template <format F>
inline constexpr int numbers_of_codes = 2 * units_of_codes<F>;

/// Makes bf16 units of codes, or floats: the i-th part of unit u. Codes of products of integers become
/// so where they stand, but for the last: 2^place times the value + zero.
template <format F>
struct decoder {
  FINEGRAIN_INLINE static vec part(ivec codes, int u, int i) {
    constexpr int bits = codec<F>::bits;
    int const at = bits * u + 16 * i, shift = 32 - bits - at;
    if constexpr (!Integers<codec<F>::products>) return codec<F>::values(codes << shift, shift);
    ivec const alone = shift == 0 ? reinterpret_cast<ivec>(reinterpret_cast<uvec>(codes) >> at)
                                  : codes & (((1 << bits) - 1) << at);
    return __builtin_convertvector(alone, vec);
  }
  FINEGRAIN_INLINE void units(ivec codes, vec (&to)[units_of_codes<F>]) const {
    FINEGRAIN_UNROLL
    for (int u = 0; u < units_of_codes<F>; ++u) {
      auto const first = __builtin_bit_cast(uvec, part(codes, u, 0));
      auto const second = __builtin_bit_cast(uvec, part(codes, u, 1));
      to[u] = __builtin_bit_cast(vec, (first >> 16) | second);  // whose lower halves are 0
    }
  }
  /// A unit of integers, each code in its 16 bits.
  FINEGRAIN_INLINE static vec integers(ivec codes, int u) {
    using words = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    constexpr int bits = codec<F>::bits;
    constexpr std::uint16_t all = (1 << bits) - 1;
    auto const lowered = reinterpret_cast<words>(codes) >> (bits * u);
    return reinterpret_cast<vec>(bits * (u + 1) == 16 ? lowered : lowered & all);
  }
  /// Codes of units i and i + units_of_codes / 2, each a byte.
  FINEGRAIN_INLINE static vec words(ivec codes, int i) {
    if constexpr (codec<F>::bits == 8) return reinterpret_cast<vec>(codes);
    return reinterpret_cast<vec>((codes >> (4 * i)) & 0x0f0f0f0f);
  }
};

#if FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512VBMI__)
/// Byte by byte: the low and the high half of a magnitude's bf16, and the sign.
template <>
struct decoder<format::fp8> {
  ivec low[2], high[2];

  decoder() {
    alignas(64) static constexpr auto halves = [] {
      std::array<std::array<std::uint8_t, 128>, 2> t{};
      for (std::uint32_t i = 0; i < 128; ++i) {
        auto const bits = std::bit_cast<std::uint32_t>(codec<format::fp8>::value(i));
        t[0][i] = static_cast<std::uint8_t>(bits >> 16);
        t[1][i] = static_cast<std::uint8_t>(bits >> 24);
      }
      return t;
    }();
    for (int i = 0; i < 2; ++i) {
      __builtin_memcpy(&low[i], halves[0].data() + 64 * i, sizeof low[i]);
      __builtin_memcpy(&high[i], halves[1].data() + 64 * i, sizeof high[i]);
    }
  }
  FINEGRAIN_INLINE void units(ivec codes, vec (&to)[2]) const {
    using shorts = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    ivec const sign = ivec{} + static_cast<int>(0x80808080), evens = ivec{} + 0x00ff00ff;
    ivec const l = find(low, codes), h = logic<0xf8>(find(high, codes), codes, sign);
    ivec const up = reinterpret_cast<ivec>(reinterpret_cast<shorts>(h) << 8);
    ivec const down = reinterpret_cast<ivec>(reinterpret_cast<shorts>(l) >> 8);
    to[0] = reinterpret_cast<vec>(logic<0xf8>(up, l, evens));
    to[1] = reinterpret_cast<vec>(logic<0xd8>(h, down, evens));
  }

 private:
  /// Bytes of a table of 128 at the low 7 bits of each byte.
  FINEGRAIN_INLINE static ivec find(ivec const (&table)[2], ivec at) {
    asm("vpermi2b %2, %1, %0" : "+v"(at) : "v"(table[0]), "v"(table[1]));
    return at;
  }
  /// Bit by bit what Table, of eight bits, has at the number a b c: 0xf8 a | (b & c), 0xd8 c ? b : a.
  template <int Table>
  FINEGRAIN_INLINE static ivec logic(ivec a, ivec b, ivec c) {
    asm("vpternlogd %3, %2, %1, %0" : "+v"(a) : "v"(b), "v"(c), "i"(Table));
    return a;
  }
};
#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
