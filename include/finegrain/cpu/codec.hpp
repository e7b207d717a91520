// codec: what the codes of a quantised format mean, and how they become what products take.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>

#include "../base/math.hpp"
#include "room.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Formats whose numbers are codes with scales.
template <format F>
concept Quantised =
    F == format::fp8 || F == format::int8 || F == format::int8_block || F == format::int4;

FINEGRAIN_INLINE vec within(vec x, float least, float most) {
  vec const high = x > most ? vec{} + most : x;
  return high < least ? vec{} + least : high;
}
/// The integers nearest to x, ties to even, from `least` to `most`.
FINEGRAIN_INLINE ivec nearest(vec x, float least, float most) {
  return reinterpret_cast<ivec>(within(x, least, most) + rounding_shift) -
         std::bit_cast<std::int32_t>(rounding_shift);
}
/// As numbers, of x less than 2^22.
FINEGRAIN_INLINE vec rounded(vec x) { return (x + rounding_shift) - rounding_shift; }

/// A quantised format. A number is scale * value(code); bf16 holds every value.
///
///   bits                  of a code
///   block                 numbers along k that share a scale; 0: all of them
///   outputs               channels that share it
///   products              the format that they are multiplied in
///   scale(most)           for numbers of which `most` is the largest; int4 has scales of its own
///   codes(x)              the codes nearest to x, numbers without their scales; in the lower bits
///   value(code)           of one
///   zero                  where products are of integers: value(code) is code - zero
///   values(top, shift)    where they are of floats: value / times of a vector's codes, which are in
///                         the top bits, shifted up by so many
///   times                 a power of 2
template <format F>
struct codec;

template <>
struct codec<format::int8> {
  static constexpr format products = as_integers ? format::int8 : format::bf16;
  static constexpr int bits = 8, block = 0, outputs = 1, zero = as_integers ? 128 : 0;
  FINEGRAIN_INLINE static vec scale(vec most) { return magnitude(most) / 127; }
  FINEGRAIN_INLINE static ivec codes(vec x) { return nearest(x, -127, 127) + zero; }
  static constexpr float value(std::uint32_t code) {
    return static_cast<float>(code) - (as_integers ? 128.0f : code < 128 ? 0.0f : 256.0f);
  }
  /// The top byte where it stands: to shift it down, too, would take as long as all else on some
  /// machines. Below it other codes are, unless it was the lowest.
  static constexpr float times = as_integers ? 1 : 0x1p-24f;
  FINEGRAIN_INLINE static vec values(ivec top, int shift) {
    return __builtin_convertvector(shift < 24 ? top & -0x1000000 : top, vec);
  }
};
template <>
struct codec<format::int8_block> : codec<format::int8> {
  static constexpr format products =
      Integers<format::int8_block> ? format::int8_block : codec<format::int8>::products;
  static constexpr int block = 32;
};

/// The scales of four blocks are integers up to 15 times one power of 2, of either sign. So codes times these
/// are bytes, whose sums may be longer than a block.
template <>
struct codec<format::int4> {
  static constexpr int bits = 4, block = 32, outputs = 1, zero = 8;
  static constexpr int sharing = 4;  // blocks with one power
  /// By larger ones a sum of 32 products may be no float where that of 128 is one: scales are NaN.
  static constexpr float most_power = 0x1p106f;
  static constexpr format products = as_integers ? format::int4 : format::bf16;
  static constexpr float times = 1;
  /// For numbers of which `most` is the largest: an eighth of it is less than 15.5 times this.
  FINEGRAIN_INLINE static vec power(vec most) {
    ivec const bits = (reinterpret_cast<ivec>(magnitude(most)) + 0x80000) & 0x7f800000;
    return reinterpret_cast<vec>(larger(bits - (6 << 23), ivec{} + (1 << 23)));
  }
  /// A block's scale, by which the largest number is about -8: of the nearest multiple of the power to that,
  /// and those beside it, the one with the least sum of squared errors. These are counted in 16ths of the
  /// scale, in integers, so that every executor chooses the same.
  static vec scale(vec const (&x)[block], vec power) {
    vec most{};
    for (vec const& n : x) most = magnitude(n) > magnitude(most) ? n : most;
    vec const unit = most > 0.0f ? -power : power;
    vec const nearest_times = rounded(within(magnitude(most) / 8 / power, 1, 15));
    vec best{}, least{};
    for (int const beside : {0, -1, 1}) {
      vec const times = within(nearest_times + static_cast<float>(beside), 1, 15),
                scale = times * unit;
      vec sum{};
      for (vec const& n : x) {
        vec const y = n / scale, error = rounded((y - rounded(within(y, -8, 7))) * 16.0f);
        sum += error * error;
      }
      sum *= times * times;
      auto const better = sum < least;
      best = beside == 0 || better ? scale : best;
      least = beside == 0 || better ? sum : least;
    }
    vec const some = power > most_power ? vec{} + __builtin_nanf("") : best;
    return most == 0.0f ? vec{} : some;
  }
  FINEGRAIN_INLINE static ivec codes(vec x) { return nearest(x, -8, 7) + zero; }
  static constexpr float value(std::uint32_t code) {
    return static_cast<float>(static_cast<int>(code) - zero);
  }
  FINEGRAIN_INLINE static vec values(ivec top, int) {
    return __builtin_convertvector((top ^ INT32_MIN) >> 28, vec);
  }
};

/// What numbers of A's rows are multiplied by once they are finished: a part of what codes lack, the rest is
/// in their scales.
template <format Products>
inline constexpr float row_times = 1;
template <>
inline constexpr float row_times<format::fp8> = 0x1p60f;

template <>
struct codec<format::fp8> {
  static constexpr bool of_floats = unit<format::bf16>::parts > 1;
  static constexpr format products = of_floats ? format::fp8 : format::bf16;
  static constexpr int bits = 8, block = 128, outputs = 128;
  FINEGRAIN_INLINE static vec scale(vec most) { return magnitude(most) / 448; }
  /// A float's upper bits, rounded to nearest, ties to even, are sign, exponent and mantissa; where codes are
  /// subnormal, a sum that has their last place is.
  FINEGRAIN_INLINE static ivec codes(vec x) {
    vec const size = magnitude(x), a = size > 448.0f ? vec{} + 448.0f : size;
    ivec const bits = reinterpret_cast<ivec>(a);
    ivec const normal = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3);
    constexpr float places = 0x1.8p14f;
    ivec const subnormal = reinterpret_cast<ivec>(a + places) - std::bit_cast<std::int32_t>(places);
    return (a < 0x1p-6f ? subnormal : normal) | ((reinterpret_cast<ivec>(x) >> 24) & 128);
  }
  static constexpr float value(std::uint32_t code) {
    int const e = static_cast<int>(code >> 3 & 15), m = static_cast<int>(code & 7);
    float v = static_cast<float>(e == 0 ? m : m + 8);
    for (int i = e == 0 ? 1 : e; i > 10; --i) v *= 2;
    for (int i = e == 0 ? 1 : e; i < 10; ++i) v /= 2;
    return code & 128 ? -v : v;
  }
  /// Sign and magnitude as bits of a float mean the value / 2^120, subnormal ones too. A multiply-add of such a
  /// number takes Intel's machines 130 cycles. So many rows meet `normal` numbers, 8 times as much: sums of
  /// subnormal ones take no longer than others. Few rows meet the numbers as they are, or with AVX-512, where a
  /// bit of the exponent takes no time, `raised` ones, if no code is subnormal.
  static constexpr int float_bits = -0x78100000;
  static constexpr float times = of_floats ? 0x1p120f : 1;
  FINEGRAIN_INLINE static vec number(ivec bits) { return reinterpret_cast<vec>(bits & float_bits); }
  FINEGRAIN_INLINE static vec values(ivec top, int) {
    return of_floats ? number(top >> 4) : normal(number(top >> 4)) * 0x1p117f;
  }
  FINEGRAIN_INLINE static vec normal(vec number) {
    number += number, number += number;
    return number + number;
  }
#if FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__)
  static constexpr bool raises = true;
  /// 2^16 times a number of each of some codes.
  template <std::size_t N>
  FINEGRAIN_INLINE static void raise(bool subnormal, vec (&numbers)[N]) {
    if (subnormal) [[unlikely]] {
      FINEGRAIN_UNROLL
      for (vec& x : numbers) x = normal(x) * 0x1p13f;
    } else {
      FINEGRAIN_UNROLL
      for (vec& x : numbers) x = reinterpret_cast<vec>(reinterpret_cast<ivec>(x) | (16 << 23));
    }
  }
  /// Whether one of these codes is subnormal, or 0.
  template <std::size_t N>
  FINEGRAIN_INLINE static bool some_are_subnormal(ivec const (&codes)[N]) {
    return !all_bytes_have(ivec{} + 0x78787878, codes);
  }
#else
  static constexpr bool raises = false;
#endif
};

/// Rows that meet codes of fp8 where products are of floats: bf16 numbers, times what codes and scales lack. So
/// numbers of 2^68 or more, and scales, become infinities, however many rows there are.
template <>
struct unit<format::fp8> : unit<format::bf16> {
  /// Rows that meet codes as they are decoded.
  static constexpr int few = scarce_loads ? 12 : tile_rows;

  static void finish(float* strip, std::int64_t units, int height, bool few_rows, float*) {
    float const rest = !few_rows ? 0x1p-3f : codec<format::fp8>::raises ? 0x1p-16f : 1.0f;
    for (std::int64_t i = 0; i < units * kept * height; i += lanes)
      store(strip + i, load(strip + i) * row_times<format::fp8> * rest);
  }
};

/// A step of k: the codes in the 32 bits of a lane. A unit's two codes are 16 bits apart, as its
/// numbers are, so that a unit is made of both at once, and all units alike. Number k begins at
/// bit_of_code:
///
///   bits      31 ... 24 | 23 ... 16 | 15 ...  8 |  7 ...  0
///   of 8          3     |     1     |     2     |     0
///   of 4        7    5  |   3    1  |   6    4  |   2    0
template <format F>
inline constexpr int step_units = 16 / codec<F>::bits;
template <format F>
inline constexpr int step_numbers = 2 * step_units<F>;

/// What products take of a step's codes:
///
///   units(codes, to)    all units, of bf16
///   number(codes, k)    number k / times as a float; where products are of integers, 2^place(k) * the code
///   numbers(codes, u, to)   the same of both of unit u, where that takes less than one by one
///   pair(codes, u)      unit u as integers of 16 bits
///   word(codes, i)      a byte each of units i and i + step_units / 2
template <format F>
struct decoder {
  FINEGRAIN_INLINE void units(ivec codes, vec (&to)[step_units<F>]) const {
    FINEGRAIN_UNROLL
    for (int u = 0; u < step_units<F>; ++u) {
      auto const first = __builtin_bit_cast(uvec, number(codes, 2 * u));
      auto const second = __builtin_bit_cast(uvec, number(codes, 2 * u + 1));
      to[u] = __builtin_bit_cast(vec, (first >> 16) | second);  // whose lower halves are 0
    }
  }
  FINEGRAIN_INLINE static vec number(ivec codes, int k) {
    constexpr int bits = codec<F>::bits;
    int const at = bit_of_code(bits, k), shift = 32 - bits - at;
    if constexpr (!Integers<codec<F>::products>) return codec<F>::values(codes << shift, shift);
    ivec const alone = shift == 0 ? reinterpret_cast<ivec>(reinterpret_cast<uvec>(codes) >> at)
                                  : codes & (((1 << bits) - 1) << at);
    return __builtin_convertvector(alone, vec);
  }
  /// Shifted together, as halves of a lane; then the lower one goes up.
  FINEGRAIN_INLINE static void numbers(ivec codes, int u, vec (&to)[2]) requires(
      F == format::fp8 && codec<format::fp8>::of_floats && FINEGRAIN_VECTOR_BYTES == 64) {
    using halves = std::int16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    auto const both = reinterpret_cast<halves>(codes);
    ivec const shifted = reinterpret_cast<ivec>((u == 0 ? both << 8 : both) >> 4);
    to[0] = codec<format::fp8>::number(shifted << 16);
    to[1] = codec<format::fp8>::number(shifted);
  }
  FINEGRAIN_INLINE static vec pair(ivec codes, int u) {
    using halves = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    constexpr int bits = codec<F>::bits;
    constexpr std::uint16_t all = (1 << bits) - 1;
    auto const lowered = reinterpret_cast<halves>(codes) >> (bits * u);
    return reinterpret_cast<vec>(bits * (u + 1) == 16 ? lowered : lowered & all);
  }
  FINEGRAIN_INLINE static vec word(ivec codes, int i) {
    if constexpr (codec<F>::bits == 8) return reinterpret_cast<vec>(codes);
    return reinterpret_cast<vec>((codes >> (4 * i)) & 0x0f0f0f0f);
  }
};

/// Of scales that are integers times one power of 2 the largest such power by which these are at most 15; NaN
/// if one of them is.
template <std::size_t N>
FINEGRAIN_INLINE vec common_power(vec const (&scales)[N]) {
  ivec most{};
  for (vec const& scale : scales) most = larger(most, reinterpret_cast<ivec>(magnitude(scale)));
  ivec const power = larger((most & 0x7f800000) - (3 << 23), ivec{} + (1 << 23));
  vec const largest = reinterpret_cast<vec>(most);
  return reinterpret_cast<vec>(power) + (largest - largest);
}

/// Words of one block's values times the integer in its scale, as bytes to which 128 is added. A byte of a
/// product fits: two are multiplied at once, and what the lower takes from the upper one it gives back.
class scaled_words {
  using halves = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
  halves times_, rest_;

 public:
  FINEGRAIN_INLINE scaled_words(vec scale, vec power) {
    ivec const inverse = (254 << 23) - reinterpret_cast<ivec>(power);
    ivec const times = __builtin_convertvector(scale * reinterpret_cast<vec>(inverse), ivec);
    times_ = reinterpret_cast<halves>((times & 0xffff) | (times << 16));
    rest_ = static_cast<std::uint16_t>(0x8080) - times_ * static_cast<std::uint16_t>(0x0808);
  }
  FINEGRAIN_INLINE vec operator()(vec word) const {
    return reinterpret_cast<vec>(reinterpret_cast<halves>(word) * times_ + rest_);
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
/// Units alone. A magnitude's bf16 is two bytes, each found in a table of 128, for a vector's codes
/// at once.
template <>
struct decoder<format::fp8> {
  ivec low[2], high[2];

  decoder() {
    alignas(64) static constexpr auto halves = [] {
      std::array<std::array<std::uint8_t, 128>, 2> t{};
      for (std::uint32_t i = 0; i < 128; ++i) {
        using code = codec<format::fp8>;
        auto const bits = std::bit_cast<std::uint32_t>(code::value(i) / code::times);
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
    using halves = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    ivec const sign = ivec{} + static_cast<int>(0x80808080), evens = ivec{} + 0x00ff00ff;
    ivec const l = find(low, codes), h = logic<0xf8>(find(high, codes), codes, sign);
    ivec const up = reinterpret_cast<ivec>(reinterpret_cast<halves>(h) << 8);
    ivec const down = reinterpret_cast<ivec>(reinterpret_cast<halves>(l) >> 8);
    to[0] = reinterpret_cast<vec>(logic<0xf8>(up, l, evens));
    to[1] = reinterpret_cast<vec>(logic<0xd8>(h, down, evens));
  }

 private:
  /// Bytes of a table of 128 at the low 7 bits of each byte.
  FINEGRAIN_INLINE static ivec find(ivec const (&table)[2], ivec at) {
    asm("vpermi2b %2, %1, %0" : "+v"(at) : "v"(table[0]), "v"(table[1]));
    return at;
  }
  /// Bit by bit what Table, of eight bits, has at the number abc: 0xf8 a | (b & c), 0xd8 c ? b : a.
  template <int Table>
  FINEGRAIN_INLINE static ivec logic(ivec a, ivec b, ivec c) {
    asm("vpternlogd %3, %2, %1, %0" : "+v"(a) : "v"(b), "v"(c), "i"(Table));
    return a;
  }
};
#elif FINEGRAIN_VECTOR_BYTES == 32
/// Where the bytes of each lane come from, in each 16 bytes, from these of the same lane.
using byte_table = std::array<std::uint8_t, sizeof(ivec)>;
constexpr byte_table bytes_of_lanes(int a, int b, int c, int d) {
  int const from[] = {a, b, c, d};
  byte_table t{};
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = static_cast<std::uint8_t>(i % 16 / 4 * 4 + static_cast<std::size_t>(from[i % 4]));
  return t;
}
/// Numbers alone. Bytes are moved, not bits shifted: many machines do that twice as fast.
template <>
struct decoder<format::fp8> {
  FINEGRAIN_INLINE static vec number(ivec codes, int k) {
    int const byte = bit_of_code(8, k) / 8;
    return codec<format::fp8>::number((byte == 3 ? codes : moved(codes, to_top[byte])) >> 4);
  }
  /// Shifted together, as halves of a lane; then the lower one goes up.
  FINEGRAIN_INLINE static void numbers(ivec codes, int u, vec (&to)[2]) {
    using halves = std::int16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
    ivec const both = u == 0 ? moved(codes, evens_up) : codes;
    ivec const shifted = reinterpret_cast<ivec>(reinterpret_cast<halves>(both) >> 4);
    to[0] = codec<format::fp8>::number(moved(shifted, half_up));
    to[1] = codec<format::fp8>::number(shifted);
  }

 private:
  alignas(sizeof(ivec)) static constexpr byte_table to_top[] = {
      bytes_of_lanes(0, 0, 0, 0), bytes_of_lanes(1, 1, 1, 1), bytes_of_lanes(2, 2, 2, 2)};
  alignas(sizeof(ivec)) static constexpr byte_table evens_up = bytes_of_lanes(0, 0, 2, 2),
                                                    half_up = bytes_of_lanes(0, 1, 0, 1);
  /// The table stays in memory: compilers would rather have sums there.
  FINEGRAIN_INLINE static ivec moved(ivec bytes, byte_table const& from) {
    ivec to;
    asm("vpshufb %2, %1, %0" : "=v"(to) : "v"(bytes), "m"(from));
    return to;
  }
};
#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
