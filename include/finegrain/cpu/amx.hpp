// amx: the registers for matrices of Intel's processors, from Sapphire Rapids on, and their products.
//
// A register holds up to 16 rows of 64 bytes. Which rows, a thread says before it uses them; and the
// system must have let the process have them, for they make a thread's state 8 kB larger.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/error.hpp"

#if defined(FINEGRAIN_HAS_AMX)
namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace amx {

/// Rows of each register, and bytes of each row: what the machine reads.
struct alignas(64) shape {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Defined by tests, on machines without them: a namespace that has all of the following.
#if defined(FINEGRAIN_AMX_ELSEWHERE)
using namespace FINEGRAIN_AMX_ELSEWHERE;
#else
/// Whether the system gives the registers to this process, which it then has.
inline bool allowed() { return ask_for_matrix_registers(); }
/// All registers become 0.
FINEGRAIN_INLINE void begin(shape const& s) { asm volatile("ldtilecfg %0" : : "m"(s)); }
/// Nothing is left that the system would keep for this thread.
FINEGRAIN_INLINE void end() { asm volatile("tilerelease"); }

/// Rows `stride` bytes apart, into or out of a register.
template <int To>
FINEGRAIN_INLINE void load(void const* from, std::int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(To) : "memory");
}
/// The same of rows that leave the first-level cache to others.
template <int To>
FINEGRAIN_INLINE void load_once(void const* from, std::int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(To) : "memory");
}
template <int From>
FINEGRAIN_INLINE void store(void* to, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(From) : "memory");
}
template <int At>
FINEGRAIN_INLINE void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(At));
}
/// sum(r, c) += a(r, :) . b(:, c), of bf16, b's rows in pairs of two. Of up to 32 products those of even
/// and of odd numbers are one chain each; subnormal numbers are 0.
template <int Sum, int A, int B>
FINEGRAIN_INLINE void add_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
}
/// The same of bytes, b's rows in words of four: those of a have signs, those of b have none.
template <int Sum, int A, int B>
FINEGRAIN_INLINE void add_bytes() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
}
#endif

}  // namespace amx
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
#endif

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Throws error where products of bf16, or of quantised weights, take registers that the system does not
/// give.
inline void require_matrix_registers() {
#if defined(FINEGRAIN_HAS_AMX)
  if (!amx::allowed())
    throw error(
        "products of bf16 and of quantised weights are compiled for AMX here, whose registers the "
        "system does not give this process: compile with -mno-amx-tile, or choose an instruction "
        "set when the program runs");
#endif
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
