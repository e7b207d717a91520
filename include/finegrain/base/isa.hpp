// isa: which instruction sets this machine runs, and the best of those that a function was built for.
//
// `finegrain_for_each_isa` (CMake) compiles a file once for each instruction set and makes the table.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "error.hpp"
#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One function as it was compiled for one instruction set.
struct isa_variant {
  char const* isa;  ///< null ends a table
  void (*function)();

  /// The function as what it is: `best_isa(f_variants).as<decltype(f)>()`.
  template <class F>
  F* as() const noexcept {
    return reinterpret_cast<F*>(function);
  }
};

namespace detail {
#if defined(__x86_64__)
struct cpuid_words {
  unsigned a, b, c, d;
};
inline cpuid_words cpuid(unsigned leaf, unsigned part) noexcept {
  cpuid_words w{};
  asm volatile("cpuid" : "=a"(w.a), "=b"(w.b), "=c"(w.c), "=d"(w.d) : "a"(leaf), "c"(part));
  return w;
}
/// Whether the system saves these registers; asked only where the processor has the instruction.
inline bool saves(unsigned registers) noexcept {
  unsigned saved = 0;
  asm volatile("xgetbv" : "=a"(saved) : "c"(0) : "edx");
  return (saved & registers) == registers;
}
constexpr unsigned bits(auto... numbers) { return ((1U << numbers) | ...); }

/// Which of the names below a machine runs, that answers for these two. The features are those of the x86-64
/// psABI.
struct x86_names {
  bool v3 = false, v3_vnni = false, v4 = false, v4_vnni = false, v4_bf16 = false, v4_amx = false;
};
x86_names x86_runs(auto const& cpuid, auto const& saves) noexcept {
  x86_names runs;
  auto const all = [](unsigned word, unsigned wanted) { return (word & wanted) == wanted; };
  unsigned const leaves = cpuid(0, 0).a, more_leaves = cpuid(0x80000000, 0).a;
  if (leaves < 7 || more_leaves < 0x80000001) return runs;
  cpuid_words const first = cpuid(1, 0), seventh = cpuid(7, 0);
  cpuid_words const more = seventh.a < 1 ? cpuid_words{} : cpuid(7, 1);
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C; BMI, AVX2, BMI2;
  // LAHF, LZCNT; xmm and ymm
  runs.v3 = all(first.c, bits(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29)) &&
            all(seventh.b, bits(3, 5, 8)) && all(cpuid(0x80000001, 0).c, bits(0, 5)) &&
            saves(bits(1, 2));
  runs.v3_vnni = runs.v3 && all(more.a, bits(4));  // AVX VNNI, of which AVX512 VNNI says nothing
  // AVX512 F, DQ, CD, BW, VL; masks, zmm and the upper 16 registers
  runs.v4 = runs.v3 && all(seventh.b, bits(16, 17, 28, 30, 31)) && saves(bits(5, 6, 7));
  runs.v4_vnni = runs.v4 && all(seventh.c, bits(11));  // AVX512 VNNI
  // AVX512 VBMI, BF16
  runs.v4_bf16 = runs.v4_vnni && all(seventh.c, bits(1)) && all(more.a, bits(5));
  // AMX BF16, TILE, INT8; its registers and their shapes
  runs.v4_amx = runs.v4_bf16 && all(seventh.d, bits(22, 24, 25)) && saves(bits(17, 18));
  return runs;
}
#endif
}  // namespace detail

/// Whether this machine and its system run what was compiled for `isa`, one of the names that
/// `finegrain_for_each_isa` knows: x86-64, x86-64-v3 (AVX2, FMA), x86-64-v3-vnni (with AVX's products of
/// integers, which some of x86-64-v4 lack), x86-64-v4 (AVX-512), x86-64-v4-vnni (with its own products of
/// integers), x86-64-v4-bf16 (with its bf16 and VBMI too), x86-64-v4-amx (with AMX's registers for matrices
/// too, for which the process asks the system then), and baseline, which is what the compiler takes by
/// itself on other machines.
inline bool runs_isa(std::string_view isa) noexcept {
#if defined(__x86_64__)
  auto const runs = detail::x86_runs(detail::cpuid, detail::saves);
  if (isa == "x86-64") return true;
  if (isa == "x86-64-v3") return runs.v3;
  if (isa == "x86-64-v3-vnni") return runs.v3_vnni;
  if (isa == "x86-64-v4") return runs.v4;
  if (isa == "x86-64-v4-vnni") return runs.v4_vnni;
  if (isa == "x86-64-v4-bf16") return runs.v4_bf16;
  if (isa == "x86-64-v4-amx") return runs.v4_amx && ask_for_matrix_registers();
#endif
  return isa == "baseline";
}

/// The first variant of a table, which has the best first, that this machine runs; or the one that the
/// environment's FINEGRAIN_ISA names. Throws invalid_argument where there is none.
inline isa_variant const& best_isa(isa_variant const* built) {
  char const* const asked = std::getenv("FINEGRAIN_ISA");
  std::string_view const wanted = asked ? asked : "";
  std::string names;
  for (; built->isa; ++built) {
    if (wanted.empty() ? runs_isa(built->isa) : wanted == built->isa) {
      if (runs_isa(built->isa)) return *built;
      throw invalid_argument("this machine does not run %s, which FINEGRAIN_ISA asks for", asked);
    }
    names += names.empty() ? "" : ", ";
    names += built->isa;
  }
  if (wanted.empty())
    throw invalid_argument("this machine runs nothing that the program was built for: %s",
                           names.c_str());
  throw invalid_argument("FINEGRAIN_ISA asks for %s, and the program was built for: %s", asked,
                         names.c_str());
}

}  // namespace finegrain::inline FINEGRAIN_ABI
