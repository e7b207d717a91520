// Which compiler and which instruction set this is: the only file that asks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if __cplusplus < 202002L
#error "finegrain needs C++20: compile with -std=c++20, and with g++ 12 or clang 14, or newer"
#endif
#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 12
#error "finegrain needs g++ 12 or clang 14, or newer, for its kernels are of their vector types"
#endif
#if !defined(__cpp_exceptions)
#error "finegrain says what is wrong by exceptions: compile with -fexceptions"
#endif
// Sums have one order, e^x rounds by a number that is added and taken away, and NaN is told apart.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || __FINITE_MATH_ONLY__
#error "finegrain needs arithmetic as written: compile with -fno-fast-math (and -O3 for -Ofast)"
#endif

#include <cstddef>

// libstdc++'s headers drop such macros, those alone that were defined before the first of them.
#if defined(min) || defined(max)
#error "finegrain calls std::min and std::max: include it before macros of these names"
#endif

#if defined(__linux__)
#include <sys/mman.h>
#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#define FINEGRAIN_VERSION "0.1.0"

// Everything lives in `finegrain::<version>`, so that two versions in one program cannot mix.
#define FINEGRAIN_ABI v0_1

#if defined(__CUDACC__)
#define FINEGRAIN_HD __host__ __device__
#else
#define FINEGRAIN_HD
#endif

// The instruction set that this translation unit is compiled for, as far as finegrain's code asks for
// it. What depends on it stands in a namespace of this name, and the `cpu` executor's type carries it:
// kernels, plans and networks on cpu of files built with different -march flags are then apart. All other
// inline functions, these headers' and the standard library's, have one name whatever the flags, and the
// linker keeps any file's: a program of such files runs where all of their sets do. The variants of
// finegrain_for_each_isa share none.
// FINEGRAIN_BYTE_PRODUCTS is, where vectors have it, the instruction that adds four products of bytes.
#if defined(__CUDACC__)  // nvcc drops pragmas that the cpu's kernels need: code of another speed
#define FINEGRAIN_ISA nvcc
#define FINEGRAIN_VECTOR_BYTES 16
#elif defined(__AVX512F__)
#define FINEGRAIN_VECTOR_BYTES 64
#if !defined(__AVX512BW__)
#define FINEGRAIN_ISA avx512_f
#else
// Skylake's servers; then Cascade Lake has VNNI, Ice Lake VBMI too, Zen 4 bf16, Sapphire Rapids AMX. The
// name is put together where it stands, so that its parts stay defined.
#if defined(__AVX512VNNI__)
#define FINEGRAIN_VNNI _vnni
#define FINEGRAIN_BYTE_PRODUCTS "vpdpbusd"
#else
#define FINEGRAIN_VNNI
#endif
#if defined(__AVX512VBMI__)
#define FINEGRAIN_VBMI _vbmi
#else
#define FINEGRAIN_VBMI
#endif
#if defined(__AVX512BF16__)
#define FINEGRAIN_BF16 _bf16
#else
#define FINEGRAIN_BF16
#endif
// clang 14 has other names for these features.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__linux__) && \
    (defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) || \
     defined(__AMXBF16__) && defined(__AMXINT8__))
#define FINEGRAIN_HAS_AMX 1
#define FINEGRAIN_AMX _amx
#else
#define FINEGRAIN_AMX
#endif
#if defined(__AVXVNNI__)  // machines younger than a Zen 4, which fetch otherwise
#define FINEGRAIN_AVXVNNI _avxvnni
#else
#define FINEGRAIN_AVXVNNI
#endif
#define FINEGRAIN_JOINED(a, b, c, d, e, f) a##b##c##d##e##f
#define FINEGRAIN_JOIN(a, b, c, d, e, f) FINEGRAIN_JOINED(a, b, c, d, e, f)
#define FINEGRAIN_ISA                                                                       \
  FINEGRAIN_JOIN(avx512, FINEGRAIN_VNNI, FINEGRAIN_VBMI, FINEGRAIN_BF16, FINEGRAIN_AVXVNNI, \
                 FINEGRAIN_AMX)
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#define FINEGRAIN_VECTOR_BYTES 32
#if defined(__AVXVNNI__)  // clients since Alder Lake
#define FINEGRAIN_ISA avx2_vnni
#if !defined(FINEGRAIN_BYTE_PRODUCTS)               // or tests/isa/vnni_elsewhere.hpp has made it
#define FINEGRAIN_BYTE_PRODUCTS "%{vex%} vpdpbusd"  // without these braces it is AVX-512's
#endif
#else
#define FINEGRAIN_ISA avx2
#endif
#elif defined(__AVX__)
#define FINEGRAIN_ISA avx
#define FINEGRAIN_VECTOR_BYTES 16
#elif defined(__SSE2__)
#define FINEGRAIN_ISA sse2
#define FINEGRAIN_VECTOR_BYTES 16
#elif defined(__ARM_NEON)
#define FINEGRAIN_ISA neon
#define FINEGRAIN_VECTOR_BYTES 16
#else
#define FINEGRAIN_ISA portable
#define FINEGRAIN_VECTOR_BYTES 16
#endif

#define FINEGRAIN_QUOTED(name) #name
#define FINEGRAIN_TEXT(name) FINEGRAIN_QUOTED(name)
#define FINEGRAIN_PRINTF(text, first) __attribute__((format(printf, text, first)))
#define FINEGRAIN_INLINE inline __attribute__((always_inline))
#define FINEGRAIN_RESTRICT __restrict__

// Before a function or a class: compiled in files that use it. What is no template a compiler compiles
// wherever it is included, and makes every template that it calls.
#define FINEGRAIN_LAZY template <int = 0>

#if defined(__CUDACC__)
#define FINEGRAIN_UNROLL
#define FINEGRAIN_ONE_COPY __attribute__((noinline))
#elif defined(__clang__)
#define FINEGRAIN_UNROLL _Pragma("clang loop unroll(full)")
#define FINEGRAIN_ONE_COPY __attribute__((noinline))
#else
#define FINEGRAIN_UNROLL _Pragma("GCC unroll 32")
#define FINEGRAIN_ONE_COPY __attribute__((noinline, noclone))
#endif

namespace finegrain::inline FINEGRAIN_ABI {

/// A large page of memory, and a hint that a block that begins on its border should lie in such.
inline constexpr std::size_t large_page = std::size_t{1} << 21;
inline void ask_for_large_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  ::madvise(data, bytes, MADV_HUGEPAGE);  // without such pages small ones do, slower
#endif
}

/// Asks the system for AMX's registers, for all threads of the process: whether it gives them.
inline bool ask_for_matrix_registers() noexcept {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int request_permission = 0x1023, tile_data = 18;
  static bool const given = ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return given;
#else
  return false;
#endif
}

/// How this thread rounds, and whether it takes subnormal numbers for 0.
#if defined(__SSE2__)
using float_mode = unsigned;
inline float_mode read_float_mode() {
  float_mode mode;
  asm volatile("stmxcsr %0" : "=m"(mode));
  return mode & ~0x3fu;  // without what has happened so far
}
inline void set_float_mode(float_mode mode) { asm volatile("ldmxcsr %0" : : "m"(mode)); }
#elif defined(__aarch64__)
using float_mode = unsigned long;
inline float_mode read_float_mode() {
  float_mode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(float_mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using float_mode = unsigned;
inline float_mode read_float_mode() { return 0; }
inline void set_float_mode(float_mode) {}
#endif

}  // namespace finegrain::inline FINEGRAIN_ABI
