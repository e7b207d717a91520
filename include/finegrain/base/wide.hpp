// wide: a register's worth of numbers of one type, for loops that serve the scalar of any executor.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "math.hpp"
#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace wide {

namespace detail {
template <class S>
struct type {
  using vec = S;
};
template <>
struct type<float> {
  using vec = float __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
};
template <>
struct type<double> {
  using vec = double __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES)));
};
}  // namespace detail

/// As many floats or doubles as a register holds; of any other type of number, one.
template <class S>
using vec = typename detail::type<S>::vec;
template <class S>
inline constexpr std::int64_t lanes = sizeof(vec<S>) / sizeof(S);

template <class S>
FINEGRAIN_INLINE vec<S> load(S const* p) {
  vec<S> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class S>
FINEGRAIN_INLINE void store(S* p, vec<S> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class S>
FINEGRAIN_INLINE vec<S> broadcast(S x) {
  return x - vec<S>{};  // minus 0: no instruction
}

// What compilers find in some loops and not in others is written out, so that every copy of a loop
// computes the same bits, and at the same speed whatever the flags. What an instruction changes is a
// variable of its own: an array of sums would have to stay in memory.
#if defined(__AVX512F__)
#define FINEGRAIN_REGISTER "v"
#elif defined(__SSE2__)
#define FINEGRAIN_REGISTER "x"
#else
#define FINEGRAIN_REGISTER "w"
#endif
#define FINEGRAIN_FUSED(instruction) \
  asm(instruction : "+" FINEGRAIN_REGISTER(sum) : FINEGRAIN_REGISTER(a), FINEGRAIN_REGISTER(b))
#define FINEGRAIN_OF_ONE(instruction, to, from) \
  asm(instruction : "=" FINEGRAIN_REGISTER(to) : FINEGRAIN_REGISTER(from))

/// sum += a * b, rounded once wherever the machine can.
template <class S>
FINEGRAIN_INLINE void add_product(S a, S b, S& sum) {
  sum += a * b;
}
FINEGRAIN_INLINE void add_product(vec<float> a, vec<float> b, vec<float>& to) {
  vec<float> sum = to;
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
  FINEGRAIN_FUSED("vfmadd231ps %2, %1, %0");
#elif defined(__aarch64__)
  FINEGRAIN_FUSED("fmla %0.4s, %1.4s, %2.4s");
#else
  sum += a * b;
#endif
  to = sum;
}
FINEGRAIN_INLINE void add_product(vec<double> a, vec<double> b, vec<double>& to) {
  vec<double> sum = to;
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
  FINEGRAIN_FUSED("vfmadd231pd %2, %1, %0");
#elif defined(__aarch64__)
  FINEGRAIN_FUSED("fmla %0.2d, %1.2d, %2.2d");
#else
  sum += a * b;
#endif
  to = sum;
}

/// The square root. math::sqrt may set errno, and therefore goes number by number.
template <class S>
FINEGRAIN_INLINE S square_root(S x) {
  return math::sqrt(x);
}
FINEGRAIN_INLINE vec<float> square_root(vec<float> x) {
  vec<float> root;
#if defined(__AVX__)
  FINEGRAIN_OF_ONE("vsqrtps %1, %0", root, x);
#elif defined(__SSE2__)
  FINEGRAIN_OF_ONE("sqrtps %1, %0", root, x);
#elif defined(__aarch64__)
  FINEGRAIN_OF_ONE("fsqrt %0.4s, %1.4s", root, x);
#else
  for (int i = 0; i < lanes<float>; ++i) root[i] = math::sqrt(x[i]);
#endif
  return root;
}
FINEGRAIN_INLINE vec<double> square_root(vec<double> x) {
  vec<double> root;
#if defined(__AVX__)
  FINEGRAIN_OF_ONE("vsqrtpd %1, %0", root, x);
#elif defined(__SSE2__)
  FINEGRAIN_OF_ONE("sqrtpd %1, %0", root, x);
#elif defined(__aarch64__)
  FINEGRAIN_OF_ONE("fsqrt %0.2d, %1.2d", root, x);
#else
  for (int i = 0; i < lanes<double>; ++i) root[i] = math::sqrt(x[i]);
#endif
  return root;
}

/// The next lanes<double> numbers of any type, as doubles.
template <class S>
FINEGRAIN_INLINE vec<double> load_doubles(S const* p) {
  vec<double> v;
  for (int i = 0; i < lanes<double>; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}
FINEGRAIN_INLINE vec<double> load_doubles(double const* p) { return load(p); }
FINEGRAIN_INLINE vec<double> load_doubles(float const* p) {
  vec<double> v;
#if FINEGRAIN_VECTOR_BYTES > 16 || !defined(__SSE2__)
  float __attribute__((vector_size(FINEGRAIN_VECTOR_BYTES / 2))) half;
#else
  double half;  // two floats: compilers differ in where they keep a vector of 8 bytes
#endif
  __builtin_memcpy(&half, p, sizeof half);
#if defined(__AVX__)
  FINEGRAIN_OF_ONE("vcvtps2pd %1, %0", v, half);
#elif defined(__SSE2__)
  FINEGRAIN_OF_ONE("cvtps2pd %1, %0", v, half);
#else
  v = __builtin_convertvector(half, vec<double>);
#endif
  return v;
}

#undef FINEGRAIN_OF_ONE
#undef FINEGRAIN_FUSED
#undef FINEGRAIN_REGISTER

}  // namespace wide
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
