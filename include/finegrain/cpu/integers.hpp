// integers: rows of A rounded to integers, whose products with codes are integers too.
//
// To make floats of codes takes as long as two to four multiply-adds. Where there are instructions
// for it, the other operand is rounded instead: of a row of A, a block of numbers along k to
// integers that share a scale. Products of these with codes are summed exactly, in integers of 32
// bits or in floats that hold them, and the block's sum times its scales is added to the total. So
// a row has the same bits whichever way it is multiplied:
//
//                few rows, as codes are decoded      more rows, once a block of codes is
//   AVX2         pairs, vpmaddwd                     floats, and the codes are floats too
//   AVX-512      pairs, vpmaddwd                     pairs, vpmaddwd
//   VNNI         bytes, vpdpbusd                     bytes, vpdpbusd  (of either of the two)
//   with AMX     bytes, vpdpbusd                     bytes, tdpbsud (amx_integers.hpp)
//
// A pair is a unit: two integers of 16 bits. A word is four bytes, of two units. Which numbers
// along k share 32 bits of a row follows from where codes stand in a lane (codec.hpp); the highest
// bits first:
//
//   codes of 8 bits    3 | 1 | 2 | 0          codes of 4 bits    7 5 3 1 | 6 4 2 0
//   pairs                  1 | 0,  3 | 2      pairs                  1 | 0,  3 | 2,  5 | 4,  7 | 6
//   a word             3 | 1 | 2 | 0          words          5 | 1 | 4 | 0,  7 | 3 | 6 | 2
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>

#include "unit.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Formats of products of integers.
template <format F>
concept Integers = requires {
  unit<F>::block_units;
};

/// The same 32 bits of a row in every lane, as products in F take them: integers must not go
/// through floats' arithmetic.
template <format F>
FINEGRAIN_INLINE vec every_lane(float unit) {
  if constexpr (Integers<F>)
    return reinterpret_cast<vec>(std::bit_cast<std::int32_t>(unit) - ivec{});
  else
    return broadcast(unit);
}

/// Where the code of number k begins in the 32 bits of a lane, which codec.hpp has a picture of.
constexpr int bit_of_code(int bits, int k) { return bits * (k / 2) + 16 * (k % 2); }

/// However many rows.
inline constexpr int any_rows = INT32_MAX;
/// Whether integers are bytes, else pairs.
#if defined(FINEGRAIN_BYTE_PRODUCTS)
inline constexpr bool byte_products = true;
#else
inline constexpr bool byte_products = false;
#endif

#if FINEGRAIN_VECTOR_BYTES == 32 || (FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__))
inline constexpr bool as_integers = true;

/// Columns of codes that have a scale for each sum of integers, or one.
enum class scaled { in_sums, at_once };

/// The unit of products with codes of `Bits` bits: `Numbers` along k of a row of A are a block.
/// They are rounded to multiples of its scale, to integers up to 2^Range, and the scale is a power
/// of 2; or, of a byte, up to 127. A number that is not finite, or near the end of what floats
/// hold, makes the scale NaN.
///
/// Products of `Summed` numbers are a sum of integers, of which a block has one or more:
///
///   total += row's scale of a block * (columns' scales * sum + columns' scales * sum + ...)
///
/// Codes are value + zero, so a sum starts at -zero times the sum of the row's integers. It is at
/// most 2^sum_bits, whatever was added so far. If it has several, more rows than few meet bytes that are
/// codes times columns' integers (codec<int4>), and a block is one sum.
///
/// Strips are filled with a row's numbers, two floats a unit, and finished once all of the row are
/// there.
///
///   block_units, sum_units      units in a block, and in a sum
///   block_sums                  sums in a block
///   block_floats                what a row has for each block: what each sum starts at, where it has several
///                               also what one of all starts at, and the scale
///   few                         rows that meet codes as they are decoded
///   turn_blocks                 blocks of a turn, where a tile's rows take turns (rows_in_turn)
///   multiply_adds(units)        that so many units of a row take: their pairs, or words
///   finished(units, few_rows)   floats of a strip that so many units of a row then take
///   finish(...)                 rounds a strip
template <int Bits, int Range, int Numbers, int Summed = Numbers, scaled Columns = scaled::in_sums>
struct integers_of_rows : unit<format::bf16> {
  static constexpr int deep = 1, parts = 1, kept = 2, zero = 1 << (Bits - 1), range = Range;
  static constexpr int whole_zero = Numbers == Summed ? zero : 128;  // of bytes
  static constexpr std::int64_t block_units = Numbers / numbers, sum_units = Summed / numbers;
  static constexpr int block_sums = Numbers / Summed;
  static constexpr int block_floats = block_sums + (block_sums > 1) + 1;
  static constexpr int whole_at = block_floats - 2, scale_at = block_floats - 1;
  /// Whether more rows than few are integers too, else floats, which hold every sum up to 2^24.
  static constexpr bool many_as_integers = byte_products || FINEGRAIN_VECTOR_BYTES == 64;
  static constexpr int sum_bits = std::bit_width(Summed * zero - 1u) + Range;
  static_assert((byte_products ? Range == 7 : Range > 7 && Range < 15) &&
                sum_bits <= (many_as_integers ? 30 : 24));
  /// docs/tried.md has by how much each way is faster.
  static constexpr int few = matrix_registers                                ? (Bits == 4 ? 9 : 5)
                             : !many_as_integers                             ? 9
                             : !byte_products                                ? 28
                             : Columns == scaled::in_sums && block_sums == 1 ? any_rows
                             : scarce_loads                                  ? (Bits == 4 ? 10 : 6)
                                                                             : 14;
  static constexpr int turn_blocks = std::max(1, 128 / Numbers);
  static_assert(block_sums == 1 || turn_blocks == 1, "a block of several sums is a turn");
  /// Of a row in one of the registers for matrices.
  static constexpr int register_words = std::min(Numbers / 4, 16);

  static constexpr std::int64_t multiply_adds(std::int64_t units) {
    return byte_products ? units / 2 : units;
  }
  static constexpr std::int64_t finished(std::int64_t units, bool few_rows) {
    return many_as_integers || few_rows ? multiply_adds(units) : units * kept;
  }

  FINEGRAIN_INLINE static vec part(vec b, int) { return b; }
  /// sum += a . b in each lane: of words, b's bytes without a sign, or of pairs.
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& sum) {
#if defined(FINEGRAIN_BYTE_PRODUCTS)
    vec to = sum;  // as in add_product
    asm(FINEGRAIN_BYTE_PRODUCTS " %1, %2, %0" : "+v"(to) : "v"(a), "v"(b));
    sum = to;
#else
    uvec products;
    asm("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(a), "v"(b));
    sum = reinterpret_cast<vec>(reinterpret_cast<uvec>(sum) + products);
#endif
  }
  /// total += a block's one sum times the row's scale and the columns'. Columns that have one scale for
  /// all of k meet it later.
  FINEGRAIN_INLINE static void add_scaled(vec sum, vec scale, vec columns, vec& total) {
    vec const number = __builtin_convertvector(reinterpret_cast<ivec>(sum), vec);
    if constexpr (block_sums > 1)  // as its few rows: the power of 2 first
      add_product(number * columns, scale, total);
    else if constexpr (Columns == scaled::in_sums)
      add_product(number * scale, columns, total);
    else
      add_product(number, scale, total);
  }
  /// The same of one of a block's sums, which meet the row's scale together.
  FINEGRAIN_INLINE static void add_scaled(vec sum, vec columns, vec& block) {
    add_product(__builtin_convertvector(reinterpret_cast<ivec>(sum), vec), columns, block);
  }
  static void keep(float const* from, std::int64_t count, float* to) {
    std::copy_n(from, count, to);
  }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[2], vec (&floats)[2]) {
    floats[0] = numbers[0];
    floats[1] = numbers[1];
  }

  /// Rounds so many units of a strip's rows, block by block: to pairs or words, which move towards
  /// the strip's begin, or to floats where they stand.
  static void finish(float* strip, std::int64_t units, int height, bool few_rows, float* blocks) {
    for (std::int64_t k = 0; k < units; k += block_units, blocks += block_floats * height) {
      std::int64_t const n = std::min(block_units, units - k);
      float* const from = strip + k * kept * height;
      rounding const by(height == 1 ? largest(largest_of(from, n * numbers / lanes, lanes)) - ivec{}
                                    : largest_of(from, n * numbers, height));
      float* const whole = blocks + whole_at * height;
      if constexpr (matrix_registers) {
        if (!few_rows) {
          round_for_registers(by, from, n, height, strip + finished(k, false) * height, whole);
          store(whole + height, by.scale);
          continue;
        }
      }
      [[maybe_unused]] uvec starts{};
      for (std::int64_t u = 0, i = 0; u < n; u += sum_units, ++i) {
        round(by, from + u * kept * height, std::min(sum_units, n - u), height, few_rows,
              strip + finished(k + u, few_rows) * height, blocks + i * height);
        if constexpr (block_sums > 1) starts += reinterpret_cast<uvec>(load(blocks + i * height));
      }
      if constexpr (block_sums > 1) store(whole, of_whole(starts));
      store(whole + height, by.scale);
    }
  }
  /// Codes become floats where they stand: that of number k as 2^place times what it is, and the
  /// row's number is made as much smaller. The highest is shifted down, for it has the sign's bit.
  static constexpr int place(int k) {
    int const at = bit_of_code(Bits, k);
    return at + Bits < 32 ? at : 0;
  }

 private:
  /// How numbers are rounded of which the largest has these bits, its sign aside. Below 2^-87 all
  /// are rounded to multiples of one number; from 2^(127 + Range - sum_bits) on, where sums may be
  /// no float, the scale is NaN.
  struct rounding {
    vec scale, inverse;
    FINEGRAIN_INLINE explicit rounding(ivec largest) {
      ivec const most = larger(largest, ivec{} + (40 << 23)), power = most & 0x7f800000;
      if constexpr (byte_products) {
        scale = reinterpret_cast<vec>(most) / 127.0f;
        inverse = 127.0f / reinterpret_cast<vec>(most);
      } else {
        scale = reinterpret_cast<vec>(power) * (2.0f / (1 << Range));
        inverse = reinterpret_cast<vec>((254 << 23) - power) * float(1 << (Range - 1));
      }
      scale = power < ((254 + Range - sum_bits) << 23) ? scale : vec{} + __builtin_nanf("");
    }
    /// x as an integer, in the lower bits of x + rounding_shift.
    FINEGRAIN_INLINE vec shifted(vec x) const {
      vec y = vec{} + rounding_shift;
      add_product(x, inverse, y);
      return y;
    }
  };
  /// The largest of so many vectors, lane by lane, as bits: of floats that are not numbers these
  /// are larger than of infinity.
  FINEGRAIN_INLINE static ivec largest_of(float const* from, std::int64_t count, int distance) {
    ivec most{};
    for (std::int64_t i = 0; i < count; ++i)
      most = larger(most, reinterpret_cast<ivec>(load(from + i * distance)) & INT32_MAX);
    return most;
  }
  /// What a sum of products starts at, from that of the row's integers.
  FINEGRAIN_INLINE static vec start(vec sum) {
    return reinterpret_cast<vec>(__builtin_convertvector(sum * float(-zero), ivec));
  }

  /// The same where codes have whole_zero; of a NaN, and behind the last row, it may be anything.
  FINEGRAIN_INLINE static vec of_whole(uvec start) {
    return reinterpret_cast<vec>(start * static_cast<unsigned>(whole_zero / zero));
  }

  /// Of integers in the lower bits.
  FINEGRAIN_INLINE static vec pair(vec first, vec second) {
    return reinterpret_cast<vec>((reinterpret_cast<ivec>(first) & 0xffff) |
                                 (reinterpret_cast<ivec>(second) << 16));
  }
  /// Of a unit's pair, and of the pair whose codes are half a step later.
  FINEGRAIN_INLINE static vec word(vec first, vec second) {
    uvec const a = reinterpret_cast<uvec>(first), b = reinterpret_cast<uvec>(second);
    return reinterpret_cast<vec>((a & 0xff00ffu) | ((b & 0xff00ffu) << 8));
  }
  /// The units of word i.
  static constexpr int half_step = 8 / Bits;
  template <class Index>
  static constexpr Index first_unit(Index i) {
    return i / half_step * 2 * half_step + i % half_step;
  }
  template <class Index>
  static constexpr Index second_unit(Index i) {
    return first_unit(i) + half_step;
  }

  /// So many units of some rows, and what the sum of their products starts at.
  static void round(rounding const& by, float* from, std::int64_t units, int height, bool few_rows,
                    float* to, float* starts) {
    if (few_rows || many_as_integers)
      height == 1 ? round_row(by, from, units, to, starts)
                  : round_rows(by, from, units, height, to, starts);
    else if constexpr (!many_as_integers)
      round_to_floats(by, from, units * numbers, height, starts);
  }
  /// Of one row. Its numbers stand side by side, and so do its pairs or words.
  static void round_row(rounding const& by, float const* from, std::int64_t units, float* to,
                        float* starts) {
    vec sum{};
    auto const pairs = [&](std::int64_t i) __attribute__((always_inline)) {  // units [i, i + lanes)
      vec const a = i < units ? by.shifted(load(from + 2 * i)) : vec{} + rounding_shift;
      vec const b =
          i + lanes / 2 < units ? by.shifted(load(from + 2 * i + lanes)) : vec{} + rounding_shift;
      sum += (a - rounding_shift) + (b - rounding_shift);
      return pair(detail::pick<even>(a, b), detail::pick<odd>(a, b));
    };
    if constexpr (byte_products) {
      for (std::int64_t i = 0; i < units; i += 2 * lanes) {
        vec const p = pairs(i), q = pairs(i + lanes);
        store(to + i / 2, word(detail::pick<first_unit>(p, q), detail::pick<second_unit>(p, q)));
      }
    } else {
      for (std::int64_t i = 0; i < units; i += lanes) store(to + i, pairs(i));
    }
    starts[0] = start(vec{} + total(sum))[0];
  }
  /// Pairs of some rows, one a lane.
  static void make_pairs(rounding const& by, float const* from, std::int64_t units, int height,
                         vec* pairs, float* starts) {
    vec sum{};
    for (std::int64_t i = 0; i < units; ++i, from += numbers * height) {
      vec const first = by.shifted(load(from)), second = by.shifted(load(from + height));
      sum += (first - rounding_shift) + (second - rounding_shift);
      pairs[i] = pair(first, second);
    }
    store(starts, start(sum));
  }
  /// Of some rows, which stand as they did.
  static void round_rows(rounding const& by, float const* from, std::int64_t units, int height,
                         float* to, float* starts) {
    vec pairs[sum_units];  // vectors end where numbers of the next sum may stand
    make_pairs(by, from, units, height, pairs, starts);
    for (std::int64_t i = 0; i < multiply_adds(units); ++i)
      store(to + i * height,
            byte_products ? word(pairs[first_unit(i)], pairs[second_unit(i)]) : pairs[i]);
  }
  /// The same, a row's words side by side, as many as a register holds of it; behind the last are
  /// zeros.
  static void round_for_registers(rounding const& by, float const* from, std::int64_t units,
                                  int height, float* to, float* start_at) {
    vec pairs[block_units]{};
    make_pairs(by, from, units, height, pairs, start_at);
    store(start_at, of_whole(reinterpret_cast<uvec>(load(start_at))));
    for (std::int64_t i = 0; i < multiply_adds(units);
         i += register_words, to += register_words * height) {
      vec words[lanes]{};
      for (int j = 0; j < register_words; ++j)
        words[j] = word(pairs[first_unit(i + j)], pairs[second_unit(i + j)]);
      transpose(words);
      for (int r = 0; r < height; ++r) store(to + r * register_words, words[r]);
    }
  }
  /// Of some rows as floats: the scale is in each.
  static void round_to_floats(rounding const& by, float* from, std::int64_t count, int height,
                              float* starts) {
    constexpr int step = 32 / Bits;  // numbers whose codes are in one lane
    ivec lane;
    for (int j = 0; j < lanes; ++j) lane[j] = j;
    vec scale[step], sum{}, made[sum_units * numbers];
    FINEGRAIN_UNROLL
    for (int k = 0; k < step; ++k)
      scale[k] = by.scale * std::bit_cast<float>((127 - place(k)) << 23);  // * 2^-place
    for (std::int64_t i = 0; i < count; i += step) {
      FINEGRAIN_UNROLL
      for (int k = 0; k < step; ++k) {
        vec const integer = by.shifted(load(from + (i + k) * height)) - rounding_shift;
        sum += integer;
        made[i + k] = integer * scale[k];
      }
    }
    // Vectors overlap: to load one just after its neighbour was stored would take ten times as
    // long. Behind the last row of the last, the next sum's numbers stand.
    float* const last = from + (count - 1) * height;
    vec const behind = load(last);
    for (std::int64_t i = 0; i < count; ++i) store(from + i * height, made[i]);
    store(last, lane < height ? made[count - 1] : behind);
    store(starts, sum * by.scale * float(-zero));
  }
};

/// Integers of pairs have 14 bits, but for what floats must hold: sums of 32 products with codes of
/// 8 bits. Beside codes of 4 bits, which are off by ten times as much, bytes share a scale in fours of
/// sums, and these meet it together.
inline constexpr int range_of_rows = byte_products ? 7 : 14;
#if FINEGRAIN_VECTOR_BYTES == 32 && !defined(FINEGRAIN_BYTE_PRODUCTS)
template <>
struct unit<format::int8> : integers_of_rows<8, 12, 32> {};
#else
template <>
struct unit<format::int8> : integers_of_rows<8, range_of_rows, 128, 128, scaled::at_once> {};
template <>
struct unit<format::int8_block> : integers_of_rows<8, range_of_rows, 32> {};
#endif
template <>
struct unit<format::int4> : integers_of_rows<4, range_of_rows, byte_products ? 128 : 32, 32> {};
#else
inline constexpr bool as_integers = false;
#endif

/// Of a tile's rows how many are multiplied at a time, where totals meet each sum, or a block of several. To
/// add a block's sums to totals in memory takes a tenth of the time of its products, or more. Registers hold
/// half the rows' totals beside their sums: the halves take turns. Of fewer rows there would be too few
/// chains of multiply-adds. Where loads are scarce it is not worth it for sums of 128 products: both halves
/// load B.
template <format F>
constexpr int rows_in_turn(int rows, bool by_block) {
  if constexpr (registers == 32 && Integers<F>) {
    bool const long_sums = unit<F>::block_units == 64 && !by_block;
    if (rows > (by_block ? 7 : 10) && !(long_sums && scarce_loads)) return (rows + 1) / 2;
  }
  return rows;
}
/// Whether registers hold so many vectors of totals.
template <format F>
constexpr bool totals_are_held(int sums) {
  return registers == 32 && Integers<F> && 2 * sums + 4 <= registers;
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
