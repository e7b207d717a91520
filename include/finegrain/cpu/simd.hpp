// simd: one vector register of floats, on the compilers' vector types, for the kernels of the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>

#include "../base/wide.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

using vec = wide::vec<float>;
using ivec = std::int32_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
using uvec = std::uint32_t __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
using wide::add_product;
using wide::load;
using wide::store;

/// Floats in a vector, and how many vectors there are to compute with.
inline constexpr int lanes = wide::lanes<float>;
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int registers = 32;
#else
inline constexpr int registers = 16;
#endif

/// Whether a machine with AVX-512 loads one vector a cycle beside two multiply-adds, as an Ice Lake does and
/// those before it may; else it loads two.
#if FINEGRAIN_VECTOR_BYTES == 64 && !defined(__AVX512BF16__)
inline constexpr bool scarce_loads = true;
#else
inline constexpr bool scarce_loads = false;
#endif

// Stores past the caches, for whole vectors on their border; what they write is seen by others after
// a fence. Elsewhere they are stores.
FINEGRAIN_INLINE bool can_stream(float const* p) {
  return reinterpret_cast<std::uintptr_t>(p) % sizeof(vec) == 0;
}
FINEGRAIN_INLINE void stream(float* p, vec v) {
#if defined(__AVX512F__) || defined(__AVX__)
  asm volatile("vmovntps %1, %0" : "=m"(*reinterpret_cast<vec*>(p)) : "v"(v));
#elif defined(__SSE2__)
  asm volatile("movntps %1, %0" : "=m"(*reinterpret_cast<vec*>(p)) : "x"(v));
#else
  store(p, v);
#endif
}
FINEGRAIN_INLINE void fence() {
#if defined(__SSE2__)
  asm volatile("sfence" : : : "memory");
#endif
}
FINEGRAIN_INLINE vec broadcast(float x) { return wide::broadcast(x); }
/// The first n <= lanes numbers, and zeros: what lies behind them is not touched.
FINEGRAIN_INLINE vec load_first(float const* p, std::int64_t n) {
  vec v{};
  for (int i = 0; i < lanes; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
FINEGRAIN_INLINE void store_first(float* p, vec v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) p[i] = v[i];
}
FINEGRAIN_INLINE vec magnitude(vec x) {
  return reinterpret_cast<vec>(reinterpret_cast<ivec>(x) & INT32_MAX);
}
template <class V>
FINEGRAIN_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
#if FINEGRAIN_VECTOR_BYTES == 64 && defined(__AVX512BW__)
/// Whether every byte of some vectors has one of these bits: one instruction a vector.
template <std::size_t N>
FINEGRAIN_INLINE bool all_bytes_have(ivec bits, ivec const (&vectors)[N]) {
  std::uint64_t have;
  asm("vptestmb %1, %2, %0" : "=Yk"(have) : "v"(bits), "v"(vectors[0]));
  FINEGRAIN_UNROLL
  for (std::size_t i = 1; i < N; ++i)
    asm("vptestmb %2, %3, %0%{%1%}" : "=Yk"(have) : "Yk"(have), "v"(bits), "v"(vectors[i]));
  return have == ~std::uint64_t{0};
}
#endif

/// 1.5 * 2^23. Added to a number, it rounds that to an integer, which then stands in the lower bits.
inline constexpr float rounding_shift = 12582912.0f;

/// e^x to about 2 units in the last place; 0 below -87.3, infinite above 88.37, NaN kept.
FINEGRAIN_INLINE vec exp(vec x) {
  vec const inside = x > 88.3762626f ? vec{} + 88.3762626f : x < -87.3365479f ? vec{} : x;
  vec const shifted = inside * 1.44269504f + rounding_shift;
  vec const n = shifted - rounding_shift;
  vec const r = inside - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  ivec const exponent =
      (reinterpret_cast<ivec>(shifted) - __builtin_bit_cast(std::int32_t, rounding_shift) + 127)
      << 23;
  vec const scaled = p * reinterpret_cast<vec>(exponent);
  vec const high = x > 88.3762626f ? vec{} + __builtin_huge_valf() : scaled;
  return x < -87.3365479f ? vec{} : high;
}
/// 1 / (1 + e^-x).
FINEGRAIN_INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exp(-x)); }

namespace detail {

// Which lane of (a, b) goes to lane j. Within each 128 bits: two rows interleaved, low or high
// halves; pairs of two rows. Across them: blocks of D lanes exchanged between two rows.
constexpr int low_of_two(int j) { return (j & ~3) + (j & 3) / 2 + (j & 1) * lanes; }
constexpr int high_of_two(int j) { return low_of_two(j) + 2; }
constexpr int low_pair(int j) { return (j & 3) < 2 ? j : lanes + j - 2; }
constexpr int high_pair(int j) { return (j & 3) < 2 ? j + 2 : lanes + j; }
template <int D>
constexpr int low_block(int j) {
  return (j & D) == 0 ? j : lanes + j - D;
}
template <int D>
constexpr int high_block(int j) {
  return (j & D) == 0 ? j + D : lanes + j;
}

template <int (*At)(int), int... J>
FINEGRAIN_INLINE vec pick(vec a, vec b, std::integer_sequence<int, J...>) {
#if defined(__CUDACC__)  // its front end takes no pack there
  constexpr int from[] = {At(J)...};
  vec picked{};
  for (int j = 0; j < lanes; ++j) picked[j] = from[j] < lanes ? a[from[j]] : b[from[j] - lanes];
  return picked;
#else
  return __builtin_shufflevector(a, b, At(J)...);
#endif
}
template <int (*At)(int)>
FINEGRAIN_INLINE vec pick(vec a, vec b) {
  return pick<At>(a, b, std::make_integer_sequence<int, lanes>());
}

template <int D, int Rows>
FINEGRAIN_INLINE void exchange(vec (&row)[lanes]) {
  if constexpr (D < lanes) {
    FINEGRAIN_UNROLL
    for (int i = 0; i < (D < Rows ? Rows : D); ++i)
      if ((i & D) == 0) {
        vec const a = row[i], b = D < Rows ? row[i + D] : vec{};
        row[i] = pick<low_block<D>>(a, b);
        row[i + D] = pick<high_block<D>>(a, b);
      }
    exchange<2 * D, Rows>(row);
  }
}

}  // namespace detail

/// All lanes, by halves: one order for every caller.
template <int Half = lanes / 2>
FINEGRAIN_INLINE float total(vec v) {
  v += detail::pick<detail::high_block<Half>>(v, v);
  if constexpr (Half == 1)
    return v[0];
  else
    return total<Half / 2>(v);
}
/// The largest lane, of floats or integers; of what is not a number, nothing is promised.
template <int Half = lanes / 2, class V>
FINEGRAIN_INLINE auto largest(V v) {
  vec const same = __builtin_bit_cast(vec, v);
  v = larger(v, __builtin_bit_cast(V, detail::pick<detail::high_block<Half>>(same, same)));
  if constexpr (Half == 1)
    return v[0];
  else
    return largest<Half / 2>(v);
}

namespace detail {

/// Lane j of row i becomes lane i of row j, within every 4 rows and every 4 lanes.
template <int Rows = lanes>
FINEGRAIN_INLINE void transpose_by_4(vec (&row)[lanes]) {
  FINEGRAIN_UNROLL
  for (int i = 0; i < Rows; i += 4) {
    vec const a = pick<low_of_two>(row[i], row[i + 1]), b = pick<high_of_two>(row[i], row[i + 1]);
    vec const c = pick<low_of_two>(row[i + 2], row[i + 3]);
    vec const d = pick<high_of_two>(row[i + 2], row[i + 3]);
    row[i] = pick<low_pair>(a, c);
    row[i + 1] = pick<high_pair>(a, c);
    row[i + 2] = pick<low_pair>(b, d);
    row[i + 3] = pick<high_pair>(b, d);
  }
}

}  // namespace detail

/// The same of all; or of `Rows` rows, a power of 2, where the others are zeros.
template <int Rows = lanes>
FINEGRAIN_INLINE void transpose(vec (&row)[lanes]) {
  detail::transpose_by_4<Rows>(row);
  detail::exchange<4, Rows>(row);
}
/// f<Rows>() with the `Rows` to transpose for n rows: of 16 lanes half as many where that is enough, for half
/// the work. Of 8 it would save little: those vectors are put together of halves as they are loaded.
template <class Function>
FINEGRAIN_INLINE void as_rows(int n, Function const& f) {
  if constexpr (lanes == 16)
    if (n <= lanes / 2) return f.template operator()<lanes / 2>();
  f.template operator()<lanes>();
}
/// Column first + j of rows in memory. A vector of two halves is put together as it is loaded: to
/// exchange halves of registers takes more than to load them apart, on Zen 1 eight instructions each.
template <int Rows = lanes>
FINEGRAIN_INLINE void transpose(float const* const* from, std::int64_t first,
                                vec (&column)[lanes]) {
#if FINEGRAIN_VECTOR_BYTES == 32 && !defined(__CUDACC__)
  if constexpr (Rows == lanes) {
    using half = float __attribute__((vector_size(16)));
    auto const halves = [](float const* p, float const* q) __attribute__((always_inline)) {
      half a, b;
      __builtin_memcpy(&a, p, sizeof a);
      __builtin_memcpy(&b, q, sizeof b);
      return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
    };
    FINEGRAIN_UNROLL
    for (int i = 0; i < 4; ++i) {
      column[i] = halves(from[i] + first, from[i + 4] + first);
      column[i + 4] = halves(from[i] + first + 4, from[i + 4] + first + 4);
    }
    return detail::transpose_by_4(column);
  }
#endif
  FINEGRAIN_UNROLL
  for (int i = 0; i < Rows; ++i) column[i] = load(from[i] + first);
  transpose<Rows>(column);
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
