// integers: codes times rows of A in 16 bits, with AVX2 and AVX-512, or in two bytes, with AMX.
//
// Two products and their sum are one instruction there, and two codes are spread to 16 bits in one; to
// make floats of them takes as long as four multiply-adds on a Zen 1. Sums of integers are exact.
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

#if FINEGRAIN_VECTOR_BYTES == 32 || (FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__))
inline constexpr bool as_integers = true;

/// Two integers of 16 bits. Of a row of A, `Numbers` at a time share a scale, a power of 2, and are
/// rounded to multiples of it up to 2^Range; they become NaN if one of them is not finite, or near the end
/// of what floats hold. Codes are values + zero, for which a block's sums start at -zero times the sum of
/// the row's integers. A block's sum is at most 2^sum_bits times the scale.
///
/// Registers of 64 bytes multiply integers at the rate of floats, or twice that: there all rows are pairs;
/// but where there are registers for matrices, which multiply bytes, only few are. More rows are two bytes
/// of each integer. Codes of 4 bits are in two bytes as well, one of them 16 times the value, so that both
/// bytes' products are one sum, for which integers go to 2^11, not 2^14. For codes of 8 bits there are two
/// sums, the lower byte without a sign. Bytes of `words` of four numbers stand side by side in a row: the
/// higher ones, then the lower ones, which are in a line of their own if a line is full.
///
/// Of 32 bytes, only the few rows are that meet codes as they are decoded. Where more share what was
/// decoded, A's rows hold the same integers as floats, times the scale, and codes become floats where they
/// stand in 32 bits: 2^place times what they are, for which A's numbers are as much smaller. No sum of a
/// block is more than 2^24 times the scale, whatever was added so far: floats hold it exactly, as integers do.
///
///   block, of_block     units of a row that share a scale, and what a row has for each of them: what
///                       its sums start at, and the scale
///   few                 rows that meet codes as they are decoded, as pairs
///   always              whether more rows are pairs too
///   in_bytes, words     whether they are bytes; words of the higher ones that a register holds of a row
///   joined              whether both bytes' products are one sum
///   finished            floats that hold a unit of theirs
///   finish(...)         makes pairs, bytes or floats of a strip that holds all numbers of its rows
///
/// Numbers are put into strips as they are, and finished once all of a row are there.
template <int Bits, int Range, int Numbers>
struct pairs_of_integers : unit<format::bf16> {
  static constexpr bool in_bytes = matrix_registers;
  static constexpr bool always = FINEGRAIN_VECTOR_BYTES == 64 && !in_bytes;
  static constexpr int few = in_bytes ? (Bits == 4 ? 9 : 5) : always ? 28 : 9;
  static constexpr int deep = 1, parts = 1, kept = 2, zero = 1 << (Bits - 1), range = Range;
  static constexpr std::int64_t block = Numbers / numbers;
  static constexpr std::int64_t of_block = 2;
  static constexpr bool joined = in_bytes && Bits == 4;
  static constexpr int words = std::min(Numbers / 4, 16), finished = always || in_bytes ? 1 : kept;
  static_assert(!joined || (words == 8 && Range < 12));
  static constexpr int sum_bits = std::bit_width(Numbers * zero - 1u) + Range;
  static_assert(Range < 15 && sum_bits <= (FINEGRAIN_VECTOR_BYTES == 64 ? 30 : 24));

  FINEGRAIN_INLINE static vec part(vec b, int) { return b; }
  /// sum += products, where both are integers.
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& sum) {
#if defined(__AVX512VNNI__)
    vec to = sum;  // as in add_product
    asm("vpdpwssd %2, %1, %0" : "+v"(to) : "v"(a), "v"(b));
    sum = to;
#else
    uvec products;
    asm("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(a), "v"(b));
    sum = reinterpret_cast<vec>(reinterpret_cast<uvec>(sum) + products);
#endif
  }
  /// A block's sums as floats.
  FINEGRAIN_INLINE static vec floats(vec sum, float scale) {
    return __builtin_convertvector(reinterpret_cast<ivec>(sum), vec) * scale;
  }
  static void keep(float const* from, std::int64_t count, float* to) {
    std::copy_n(from, count, to);
  }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[2], vec (&floats)[2]) {
    floats[0] = numbers[0];
    floats[1] = numbers[1];
  }

  /// Rounds so many units of a strip's rows: to integers in pairs or to their bytes, where the strip
  /// begins, or to floats where they stand.
  static void finish(float* strip, std::int64_t units, int height, bool in_pairs, float* blocks) {
    for (std::int64_t k = 0; k < units; k += block, blocks += of_block * height) {
      std::int64_t const n = std::min(block, units - k);
      float* const from = strip + k * kept * height;
      if (!in_pairs) {
        if constexpr (in_bytes)
          byte_rows(from, n, height, strip + k * height, blocks);
        else if constexpr (!always)
          round_rows(from, n * numbers, height, blocks);
      } else if (height == 1)
        pair_row(from, n, strip + k, blocks);
      else
        pair_rows(from, n, height, strip + k * height, blocks);
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
      ivec const power = larger(largest & 0x7f800000, ivec{} + (40 << 23));
      vec const p = reinterpret_cast<vec>(power);
      by = power < ((254 + Range - sum_bits) << 23) ? p * (2.0f / (1 << Range))
                                                    : vec{} + __builtin_nanf("");
      inverse = reinterpret_cast<vec>((254 << 23) - power) * float(1 << (Range - 1));
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

  static void pair_row(float const* from, std::int64_t units, float* to, float* blocks) {
    scale const s(largest(largest_of(from, units * numbers / lanes, lanes)) - ivec{});
    vec sum{};
    for (std::int64_t i = 0; i < units; i += lanes) {
      bool const both = i + lanes / 2 < units;
      vec const a = s.shifted(load(from + 2 * i));
      vec const b = both ? s.shifted(load(from + 2 * i + lanes)) : vec{} + shift;
      sum += (a - shift) + (b - shift);
      store(to + i, pair(detail::pick<even>(a, b), detail::pick<odd>(a, b)));
    }
    blocks[0] = start(vec{} + total(sum))[0];
    blocks[1] = s.by[0];
  }
  static void pair_rows(float const* from, std::int64_t units, int height, float* to,
                        float* blocks) {
    scale const s(largest_of(from, units * numbers, height));
    vec sum{}, made[block];  // vectors end where numbers of the next block may stand
    for (std::int64_t i = 0; i < units; ++i, from += numbers * height) {
      vec const first = s.shifted(load(from)), second = s.shifted(load(from + height));
      sum += (first - shift) + (second - shift);
      made[i] = pair(first, second);
    }
    for (std::int64_t i = 0; i < units; ++i) store(to + i * height, made[i]);
    store(blocks, start(sum));
    store(blocks + height, s.by);
  }
  /// An integer's bytes, in the lower bits.
  struct two_bytes {
    ivec higher, lower;
    explicit two_bytes(ivec x) {
      if constexpr (joined) {
        higher = x >> 4;
        higher = higher > 127 ? ivec{} + 127 : higher;  // of 2^11 alone
        lower = x - (higher << 4);
      } else {
        higher = x >> 8;
        lower = x;
      }
    }
  };
  /// Codes of a unit and of that half a step of codes later are side by side.
  static void byte_rows(float const* from, std::int64_t units, int height, float* to,
                        float* blocks) {
    constexpr int step = 16 / Bits, line = 16;
    scale const s(largest_of(from, units * numbers, height));
    ivec made[block * numbers] = {};
    for (std::int64_t i = 0; i < units * numbers; ++i)
      made[i] = reinterpret_cast<ivec>(s.shifted(load(from + i * height))) -
                std::bit_cast<std::int32_t>(shift);
    for (int unit = 0; unit < units; unit += 2 * words, to += 2 * words * height) {
      vec higher[lanes], lower[lanes];
      for (int w = 0; w < words; ++w) {
        ivec const* const first = made + numbers * (unit + 2 * w / step * step + w % (step / 2));
        ivec high{}, low{};
        FINEGRAIN_UNROLL
        for (int i = 0; i < 4; ++i) {
          two_bytes const of(first[i % 2 * step + i / 2]);
          high |= (of.higher & 255) << (8 * i);
          low |= (of.lower & 255) << (8 * i);
        }
        higher[w] = reinterpret_cast<vec>(high);
        (words < line ? higher[words + w] : lower[w]) = reinterpret_cast<vec>(low);
      }
      store_rows(higher, height, to);
      if constexpr (words == line) store_rows(lower, height, to + line * height);
    }
    store(blocks + height, s.by);
  }
  FINEGRAIN_INLINE static void store_rows(vec (&columns)[lanes], int height, float* to) {
    transpose(columns);
    for (int r = 0; r < height; ++r) store(to + r * lanes, columns[r]);
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
struct unit<format::int8> : pairs_of_integers<8, 12, 32> {};
#else
template <>
struct unit<format::int8> : pairs_of_integers<8, 14, 128> {};
template <>
struct unit<format::int8_block> : pairs_of_integers<8, 14, 32> {};
#endif
template <>
struct unit<format::int4> : pairs_of_integers<4, matrix_registers ? 11 : 14, 32> {};
#else
inline constexpr bool as_integers = false;
#endif

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
