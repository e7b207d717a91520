// integers: codes times rows of A in bytes, with VNNI and AMX, or in 16 bits, with AVX2 and AVX-512.
//
// Four products of bytes and their sum are one instruction there, or two of 16 bits; to make floats of codes
// takes as long as four multiply-adds on a Zen 1. Sums of integers are exact.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>

#include "unit.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Products of integers: `unit<F>::block` units of a row of A share a scale.
template <format F>
concept Integers = requires {
  unit<F>::block;
};

/// The same unit in every lane, as products in F take it: integers must not go through floats' arithmetic.
template <format F>
FINEGRAIN_INLINE vec every_lane(float unit) {
  if constexpr (Integers<F>)
    return reinterpret_cast<vec>(std::bit_cast<std::int32_t>(unit) - ivec{});
  else
    return broadcast(unit);
}

/// However many rows.
inline constexpr int any_rows = INT32_MAX;
/// Whether bytes are multiplied, four products and their sum an instruction.
#if FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
inline constexpr bool byte_products = true;
#else
inline constexpr bool byte_products = false;
#endif

#if FINEGRAIN_VECTOR_BYTES == 32 || (FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__))
inline constexpr bool as_integers = true;

/// Columns of codes that have a scale for each block of k, or one.
enum class scaled { in_blocks, at_once };

/// Of a row of A, `Numbers` at a time share a scale, and are rounded to multiples of it: integers up to
/// 2^Range, for which the scale is a power of 2; or, of a byte, up to 127. They become NaN if one of them is
/// not finite, or near the end of what floats hold. Codes are values + zero, for which a block's sums start
/// at -zero times the sum of the row's integers. A block's sum is at most 2^sum_bits times the scale.
///
/// Where bytes are multiplied, integers are bytes, four to a word. Tiles in registers for matrices take a
/// row's words side by side, `words` at a time, and values of codes; few rows, and all elsewhere, are held
/// word by word, and meet codes as they are. Registers of 64 bytes without such products take pairs of
/// integers, for few rows and for many.
///
/// Of 32 bytes, only the few rows are pairs that meet codes as they are decoded. Where more share what was
/// decoded, A's rows hold the same integers as floats, times the scale, and codes become floats where they
/// stand in 32 bits: 2^place times what they are, for which A's numbers are as much smaller. No sum of a
/// block is more than 2^24 times the scale, whatever was added so far: floats hold it exactly, as integers do.
///
///   block, of_block     units of a row that share a scale, and what a row has for each of them: what
///                       its sums start at, and the scale
///   few                 rows that meet codes as they are decoded: of words any, if columns have scales in
///                       blocks (docs/tried.md has by how much each is faster)
///   always              whether more rows are held as they are
///   steps(units)        multiply-adds of so many units: words, or pairs
///   finished(units, few)   floats that hold so many units of a row
///   finish(...)         makes words, pairs or floats of a strip that holds all numbers of its rows
///
/// Numbers are put into strips as they are, and finished once all of a row are there.
template <int Bits, int Range, int Numbers, scaled Columns = scaled::in_blocks>
struct integers_of_rows : unit<format::bf16> {
  static constexpr bool always = FINEGRAIN_VECTOR_BYTES == 64 && !matrix_registers;
  static constexpr int few = matrix_registers               ? (Bits == 4 ? 9 : 5)
                             : !always                      ? 9
                             : !byte_products               ? 28
                             : Columns == scaled::in_blocks ? any_rows
                                                            : 14;
  static constexpr int deep = 1, parts = 1, kept = 2, zero = 1 << (Bits - 1), range = Range;
  static constexpr std::int64_t block = Numbers / numbers;
  static constexpr std::int64_t of_block = 2;
  static constexpr int words = std::min(Numbers / 4, 16);
  static constexpr int sum_bits = std::bit_width(Numbers * zero - 1u) + Range;
  static_assert((byte_products ? Range == 7 : Range > 7 && Range < 15) &&
                sum_bits <= (FINEGRAIN_VECTOR_BYTES == 64 ? 30 : 24));

  static constexpr std::int64_t steps(std::int64_t units) {
    return byte_products ? units / 2 : units;
  }
  static constexpr std::int64_t finished(std::int64_t units, bool few_rows) {
    return byte_products || always || few_rows ? steps(units) : units * kept;
  }

  FINEGRAIN_INLINE static vec part(vec b, int) { return b; }
  /// sum += products of integers: of bytes, b's without a sign, or of pairs.
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& sum) {
#if FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
    vec to = sum;  // as in add_product
    asm("vpdpbusd %1, %2, %0" : "+v"(to) : "v"(a), "v"(b));
    sum = to;
#else
    uvec products;
    asm("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(a), "v"(b));
    sum = reinterpret_cast<vec>(reinterpret_cast<uvec>(sum) + products);
#endif
  }
  /// total += a block's sums times the row's scale and the columns'; if those have one each for all of k, they
  /// are met later.
  FINEGRAIN_INLINE static void add_floats(vec sum, float scale, vec columns, vec& total) {
    vec const number = __builtin_convertvector(reinterpret_cast<ivec>(sum), vec);
    if constexpr (Columns == scaled::in_blocks)
      add_product(number * scale, columns, total);
    else
      add_product(number, broadcast(scale), total);
  }
  static void keep(float const* from, std::int64_t count, float* to) {
    std::copy_n(from, count, to);
  }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[2], vec (&floats)[2]) {
    floats[0] = numbers[0];
    floats[1] = numbers[1];
  }

  /// Rounds so many units of a strip's rows: to words, pairs or bytes, where the strip begins, or to floats
  /// where they stand.
  static void finish(float* strip, std::int64_t units, int height, bool few_rows, float* blocks) {
    for (std::int64_t k = 0; k < units; k += block, blocks += of_block * height) {
      std::int64_t const n = std::min(block, units - k);
      float* const from = strip + k * kept * height;
      float* const to = strip + finished(k, few_rows) * height;
      if (few_rows || always) {
        height == 1 ? one_row(from, n, to, blocks) : some_rows(from, n, height, to, blocks);
      } else {
        if constexpr (matrix_registers)
          rows_for_registers(from, n, height, to, blocks);
        else if constexpr (!always)
          round_rows(from, n * numbers, height, blocks);
      }
    }
  }
  /// Of number k of those whose codes are in one lane.
  static constexpr int place(int k) {
    int const at = Bits * (k / 2) + 16 * (k % 2);
    return at + Bits < 32 ? at : 0;
  }

 private:
  static constexpr float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  /// Of numbers the largest of which has these bits, its sign aside. Below 2^-87 all are rounded to
  /// multiples of one number; from 2^(127 + Range - sum_bits) on, where sums may be no float, it is NaN.
  struct scale {
    vec by, inverse;
    FINEGRAIN_INLINE explicit scale(ivec largest) {
      ivec const most = larger(largest, ivec{} + (40 << 23)), power = most & 0x7f800000;
      if constexpr (Range > 7) {
        by = reinterpret_cast<vec>(power) * (2.0f / (1 << Range));
        inverse = reinterpret_cast<vec>((254 << 23) - power) * float(1 << (Range - 1));
      } else {
        by = reinterpret_cast<vec>(most) / 127.0f;
        inverse = 127.0f / reinterpret_cast<vec>(most);
      }
      by = power < ((254 + Range - sum_bits) << 23) ? by : vec{} + __builtin_nanf("");
    }
    /// x as an integer, in the lower bits of x + shift.
    FINEGRAIN_INLINE vec shifted(vec x) const {
      vec y = vec{} + shift;
      add_product(x, inverse, y);
      return y;
    }
  };
  FINEGRAIN_INLINE static vec pair(vec first, vec second) {
    return reinterpret_cast<vec>((reinterpret_cast<ivec>(first) & 0xffff) |
                                 (reinterpret_cast<ivec>(second) << 16));
  }
  FINEGRAIN_INLINE static vec start(vec sum) {
    return reinterpret_cast<vec>(__builtin_convertvector(sum * float(-zero), ivec));
  }
  /// The largest of so many vectors, lane by lane, as bits: of floats that are not numbers these are
  /// larger than of infinity.
  FINEGRAIN_INLINE static ivec largest_of(float const* from, std::int64_t count, int distance) {
    ivec most{};
    for (std::int64_t i = 0; i < count; ++i)
      most = larger(most, reinterpret_cast<ivec>(load(from + i * distance)) & INT32_MAX);
    return most;
  }

  /// The bytes of a unit, and of that whose codes are half a step later, each a pair of integers.
  FINEGRAIN_INLINE static vec word(vec first, vec second) {
    uvec const a = reinterpret_cast<uvec>(first), b = reinterpret_cast<uvec>(second);
    return reinterpret_cast<vec>((a & 0xff00ffu) | ((b & 0xff00ffu) << 8));
  }
  static constexpr int half_step = 8 / Bits;  // units
  /// The first of the two units of a word.
  static constexpr std::int64_t first_of(std::int64_t w) {
    return w / half_step * 2 * half_step + w % half_step;
  }
  /// Of two vectors of pairs, units whose codes are in the lower half of a step; in the upper half.
  static constexpr int lower_half(int j) { return j / half_step * 2 * half_step + j % half_step; }
  static constexpr int upper_half(int j) { return lower_half(j) + half_step; }

  /// Pairs of so many units of rows, and what their block has.
  static void pairs_of(float const* from, std::int64_t units, int height, vec* made,
                       float* blocks) {
    scale const s(largest_of(from, units * numbers, height));
    vec sum{};
    for (std::int64_t i = 0; i < units; ++i, from += numbers * height) {
      vec const first = s.shifted(load(from)), second = s.shifted(load(from + height));
      sum += (first - shift) + (second - shift);
      made[i] = pair(first, second);
    }
    store(blocks, start(sum));
    store(blocks + height, s.by);
  }
  static void one_row(float const* from, std::int64_t units, float* to, float* blocks) {
    scale const s(largest(largest_of(from, units * numbers / lanes, lanes)) - ivec{});
    vec sum{};
    auto const pairs = [&](std::int64_t i) __attribute__((always_inline)) {  // units [i, i + lanes)
      vec const a = i < units ? s.shifted(load(from + 2 * i)) : vec{} + shift;
      vec const b = i + lanes / 2 < units ? s.shifted(load(from + 2 * i + lanes)) : vec{} + shift;
      sum += (a - shift) + (b - shift);
      return pair(detail::pick<even>(a, b), detail::pick<odd>(a, b));
    };
    if constexpr (byte_products) {
      for (std::int64_t i = 0; i < units; i += 2 * lanes) {
        vec const p = pairs(i), q = pairs(i + lanes);
        store(to + i / 2, word(detail::pick<lower_half>(p, q), detail::pick<upper_half>(p, q)));
      }
    } else {
      for (std::int64_t i = 0; i < units; i += lanes) store(to + i, pairs(i));
    }
    blocks[0] = start(vec{} + total(sum))[0];
    blocks[1] = s.by[0];
  }
  static void some_rows(float const* from, std::int64_t units, int height, float* to,
                        float* blocks) {
    vec made[block];  // vectors end where numbers of the next block may stand
    pairs_of(from, units, height, made, blocks);
    for (std::int64_t i = 0; i < steps(units); ++i)
      store(to + i * height,
            byte_products ? word(made[first_of(i)], made[first_of(i) + half_step]) : made[i]);
  }
  /// The same, a row's words side by side, as many as a register holds of it; behind the last are zeros.
  static void rows_for_registers(float const* from, std::int64_t units, int height, float* to,
                                 float* blocks) {
    vec made[block]{};
    pairs_of(from, units, height, made, blocks);
    for (std::int64_t w = 0; w < steps(units); w += words, to += words * height) {
      vec columns[lanes]{};
      for (int i = 0; i < words; ++i)
        columns[i] = word(made[first_of(w + i)], made[first_of(w + i) + half_step]);
      transpose(columns);
      for (int r = 0; r < height; ++r) store(to + r * words, columns[r]);
    }
  }
  static void round_rows(float* from, std::int64_t count, int height, float* blocks) {
    constexpr int together = 32 / Bits;
    scale const s(largest_of(from, count, height));
    ivec lane;
    for (int j = 0; j < lanes; ++j) lane[j] = j;
    vec by[together], sum{}, made[block * numbers];
    FINEGRAIN_UNROLL
    for (int k = 0; k < together; ++k) by[k] = s.by * std::bit_cast<float>((127 - place(k)) << 23);
    for (std::int64_t i = 0; i < count; i += together) {
      FINEGRAIN_UNROLL
      for (int k = 0; k < together; ++k) {
        vec const integer = s.shifted(load(from + (i + k) * height)) - shift;
        sum += integer;
        made[i + k] = integer * by[k];
      }
    }
    // Vectors overlap: to load one just after its neighbour was stored would take ten times as long.
    // Behind the last row of the last, the next block's numbers stand.
    float* const last = from + (count - 1) * height;
    vec const behind = load(last);
    for (std::int64_t i = 0; i < count; ++i) store(from + i * height, made[i]);
    store(last, lane < height ? made[count - 1] : behind);
    store(blocks, sum * s.by * float(-zero));
  }
};
#if FINEGRAIN_VECTOR_BYTES == 32
template <>
struct unit<format::int8> : integers_of_rows<8, 12, 32> {};
#else
template <>
struct unit<format::int8> : integers_of_rows<8, byte_products ? 7 : 14, 128, scaled::at_once> {};
template <>
struct unit<format::int8_block> : integers_of_rows<8, byte_products ? 7 : 14, 32> {};
#endif
template <>
struct unit<format::int4> : integers_of_rows<4, byte_products ? 7 : 14, 32> {};
#else
inline constexpr bool as_integers = false;
#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
