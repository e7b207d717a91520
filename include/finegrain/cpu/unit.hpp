// unit: the 32 bits that a product takes at a time from each operand, and their multiply-add.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <type_traits>

#include "../base/bounds.hpp"
#include "../base/number.hpp"
#include "simd.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// How numbers of a format stand along k in units, one unit in each lane of a vector:
///
///   numbers                       in a unit
///   parts                         multiply-adds that it takes
///   kept                          floats that it is in a strip of A's rows: its parts; of integers its
///                                 numbers, until the rows are finished
///   flushes                       whether a number that is subnormal becomes 0
///   deep                          units of a row that stand side by side in a strip, and that a tile takes
///                                 at a time: as many as registers for matrices hold, or 1; integers are
///                                 put side by side as they are finished
///   part(b, i)                    what the i-th of them takes of a vector of B's units
///   multiply_add(a, b, sum)       each lane's sum += the product of parts of a and b
///   take(from, count, to)         ceil(count / numbers) units from so many floats, 0 behind the last
///   take(vec, to)                 the same for a vector
///   keep(from, count, to)         the same as strips keep them, each in `kept` floats
///   keep(numbers, floats)         the same of a unit's numbers of as many rows as there are lanes
///   join(parts)                   units of lanes' numbers: part i has the i-th of each
///   take(bf16 const*, ...), join(bf16 const*, ...)   the same from bf16, where it has units
///   numbers_of(from, count)       the first of a vector's numbers, up to `lanes`, from units; then 0
template <format F>
struct unit;

/// Whether there are registers for matrices; and whether tiles of many rows are in them.
#if defined(FINEGRAIN_HAS_AMX)
inline constexpr bool matrix_registers = true;
#else
inline constexpr bool matrix_registers = false;
#endif
template <format F>
inline constexpr bool in_matrices = matrix_registers&& F != format::f32;

/// Units that a product takes for so many numbers: behind the last, zeros.
template <format F>
constexpr std::int64_t product_units(std::int64_t numbers) {
  constexpr std::int64_t step = unit<F>::numbers * unit<F>::deep;
  return ceil_div(numbers, step) * unit<F>::deep;
}

template <>
struct unit<format::f32> {
  static constexpr int numbers = 1, deep = 1, parts = 1, kept = 1;
  FINEGRAIN_INLINE static vec part(vec b, int) { return b; }
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& sum) { add_product(a, b, sum); }
  static void take(float const* from, std::int64_t count, float* to) {
    std::copy_n(from, count, to);
  }
  static void keep(float const* from, std::int64_t count, float* to) { take(from, count, to); }
  FINEGRAIN_INLINE static void take(vec from, float* to) { store(to, from); }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[1], vec (&floats)[1]) {
    floats[0] = numbers[0];
  }
  FINEGRAIN_INLINE static vec join(vec const (&part)[1]) { return part[0]; }
  FINEGRAIN_INLINE static vec numbers_of(float const* from, std::int64_t count) {
    return count >= lanes ? load(from) : load_first(from, count);
  }
};

/// Two bf16 numbers, the earlier in the low half. Products and sums are f32: with avx512_bf16 both
/// products are added in one instruction, which takes subnormal numbers for 0; else one by one, and
/// A's rows keep the rounded numbers as floats.
template <>
struct unit<format::bf16> {
  static constexpr int numbers = 2;
  static constexpr int deep = matrix_registers ? 16 : 1;
#if defined(__AVX512BF16__)
  static constexpr bool flushes = true;
  static constexpr int parts = 1, kept = 1;
  FINEGRAIN_INLINE static vec part(vec b, int) { return b; }
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& to) {
    vec sum = to;  // as in add_product
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    to = sum;
  }
#else
  static constexpr bool flushes = false;
  static constexpr int parts = 2, kept = 2;
  FINEGRAIN_INLINE static vec part(vec b, int i) {
    ivec const units = reinterpret_cast<ivec>(b);
    return reinterpret_cast<vec>(i == 0 ? units << 16 : units & -65536);
  }
  FINEGRAIN_INLINE static void multiply_add(vec a, vec b, vec& sum) { add_product(a, b, sum); }
#endif

  static void take(float const* from, std::int64_t count, float* to) {
    std::int64_t k = 0;
    for (; k + 2 * lanes <= count; k += 2 * lanes)
      store(to + k / 2, pairs(load(from + k), load(from + k + lanes)));
    if (k < count) {
      std::int64_t const first = std::min<std::int64_t>(count - k, lanes),
                         second = count - k - first;
      vec const pair = pairs(load_first(from + k, first), load_first(from + k + first, second));
      store_first(to + k / 2, pair, (count - k + 1) / 2);
    }
  }
  FINEGRAIN_INLINE static void take(vec from, float* to) {
    vec const both = pairs(from, vec{});
    __builtin_memcpy(to, &both, sizeof both / 2);
  }
#if defined(__AVX512BF16__)
  static void keep(float const* from, std::int64_t count, float* to) { take(from, count, to); }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[2], vec (&floats)[1]) {
    floats[0] = join(numbers);
  }
#else
  static void keep(float const* from, std::int64_t count, float* to) {
    std::int64_t k = 0;
    for (; k + lanes <= count; k += lanes) store(to + k, nearest(load(from + k)));
    if (k < count)
      store_first(to + k, nearest(load_first(from + k, count - k)), (count - k + 1) / 2 * 2);
  }
  FINEGRAIN_INLINE static void keep(vec const (&numbers)[2], vec (&floats)[2]) {
    floats[0] = nearest(numbers[0]);
    floats[1] = nearest(numbers[1]);
  }
#endif
  FINEGRAIN_INLINE static vec join(vec const (&part)[2]) {
#if defined(__AVX512BF16__)
    return alternate(rounded(part[0], part[1]), std::make_integer_sequence<int, 2 * lanes>());
#else
    return reinterpret_cast<vec>((rounded(part[0]) >> 16) | (rounded(part[1]) & 0xffff0000u));
#endif
  }
  static void take(bf16 const* from, std::int64_t count, float* to) {
    if (count % 2 > 0) to[count / 2] = 0;
    __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof *from);
  }
  /// Of rows k and k + 1, the second of which may be missing, up to `lanes` numbers each.
  FINEGRAIN_INLINE static vec join(bf16 const* first, bf16 const* second, std::int64_t count) {
    uvec const above = second ? words_of(second, count) << 16 : uvec{};
    return reinterpret_cast<vec>(words_of(first, count) | above);
  }
  FINEGRAIN_INLINE static vec numbers_of(float const* from, std::int64_t count) {
    return reinterpret_cast<vec>(words_of(from, count) << 16);
  }

 protected:
  FINEGRAIN_INLINE static uvec words_of(void const* from, std::int64_t count) {
    std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES / 2))) some{};
    if (count >= lanes)
      __builtin_memcpy(&some, from, sizeof some);
    else
      __builtin_memcpy(&some, from, static_cast<std::size_t>(count) * 2);
    return __builtin_convertvector(some, uvec);
  }
  static constexpr int even(int j) { return 2 * j; }
  static constexpr int odd(int j) { return 2 * j + 1; }

  /// The bits of a float rounded to bf16, in the upper half: to nearest, ties to even, NaN kept.
  FINEGRAIN_INLINE static uvec rounded(vec x) {
    uvec const bits = reinterpret_cast<uvec>(x);
    uvec const nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
    return x == x ? nearest : bits | 0x400000u;
  }
#if defined(__AVX512BF16__)
  using halves = std::uint16_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
  /// All of a, then all of b. Subnormal numbers become 0, as they would in the product.
  FINEGRAIN_INLINE static halves rounded(vec a, vec b) {
    halves both;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(a), "v"(b));
    return both;
  }
  template <int... J>
  FINEGRAIN_INLINE static vec alternate(halves ab, std::integer_sequence<int, J...>) {
#if defined(__CUDACC__)  // as in detail::pick
    halves both{};
    for (int j = 0; j < 2 * lanes; ++j) both[j] = ab[j / 2 + j % 2 * lanes];
    return reinterpret_cast<vec>(both);
#else
    return reinterpret_cast<vec>(__builtin_shufflevector(ab, ab, (J / 2 + J % 2 * lanes)...));
#endif
  }
  FINEGRAIN_INLINE static vec pairs(vec a, vec b) { return reinterpret_cast<vec>(rounded(a, b)); }
#else
  FINEGRAIN_INLINE static vec nearest(vec x) { return part(reinterpret_cast<vec>(rounded(x)), 1); }
  FINEGRAIN_INLINE static vec pairs(vec a, vec b) {
    vec const part[] = {detail::pick<even>(a, b),
                        detail::pick<odd>(a, b)};  // nvcc 13 takes no list
    return join(part);
  }
#endif
};

/// A unit of each of a vector's columns, up to `left` of them, of rows of numbers, or of numbers in bf16;
/// a row that is missing has zeros.
template <format F, class N>
FINEGRAIN_INLINE vec unit_of(N const* const (&rows)[unit<F>::numbers], std::int64_t column,
                             std::int64_t left) {
  if constexpr (std::is_same_v<N, bf16>) {
    if (!rows[0] || left <= 0) return vec{};
    return unit<F>::join(rows[0] + column, rows[1] ? rows[1] + column : nullptr, left);
  } else {
    vec part[unit<F>::numbers];
    FINEGRAIN_UNROLL
    for (int i = 0; i < unit<F>::numbers; ++i)
      part[i] = !rows[i]        ? vec{}
                : left >= lanes ? load(rows[i] + column)
                                : load_first(rows[i] + column, left);
    return unit<F>::join(part);
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
