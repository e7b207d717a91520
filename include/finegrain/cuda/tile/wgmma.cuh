// wgmma: the matrix instruction of compute capability 9.0a. 128 threads (a warpgroup) multiply
// A (64, 16) . B (16, N), both in shared memory, and hold the sums (64, N), f32, in registers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../base/number.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

// Operands lie in panels of 64 numbers (128 bytes) a row, their 16-byte chunks permuted as TMA's
// swizzle of 128 bytes does: see swizzled. A panel begins on a border of 1024 bytes.
//
//   k_major:   a row of the panel is a row of A or a column of B, 64 deep in K. One panel is read
//              whatever N is. The next 16 of K: 32 bytes on, inside the row.
//   mn_major:  a row of the panel is one k, with 64 rows of A or columns of B. For N > 64 the next
//              64 columns stand `panel` bytes on. The next 16 of K: 2048 bytes on.
//
// Sums of thread t: row t / 32 * 16 + t % 32 / 4, and 8 rows below; of each 8 columns the two at
// t % 4 * 2: sums[4 j], [4 j + 1] are columns 8 j + t % 4 * 2 + {0, 1}; [4 j + 2], [4 j + 3] those
// of the lower row.

inline constexpr int k_step_k_major = 32 >> 4, k_step_mn_major = 2048 >> 4;  // added to descriptors

/// Where 16-byte chunk `chunk` of row `row` stands in a panel, in bytes.
FINEGRAIN_HD constexpr int swizzled(int row, int chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

FINEGRAIN_HD constexpr std::uint64_t descriptor(std::uint32_t address, std::uint32_t leading) {
  std::uint64_t const swizzle_128 = 1ull << 62, stride = 1024 >> 4;  // the next 8 rows of a panel
  return swizzle_128 | stride << 32 | std::uint64_t{leading >> 4 & 0x3fff} << 16 |
         (address >> 4 & 0x3fff);
}
FINEGRAIN_HD constexpr std::uint64_t k_major(std::uint32_t address) {
  return descriptor(address, 16);
}
FINEGRAIN_HD constexpr std::uint64_t mn_major(std::uint32_t address, std::uint32_t panel) {
  return descriptor(address, panel);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Before the first wgmma, and after other code wrote the sums.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most Pending committed groups run.
template <int Pending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

#define FINEGRAIN_TEN(t) \
  "%" t "0, %" t "1, %" t "2, %" t "3, %" t "4, %" t "5, %" t "6, %" t "7, %" t "8, %" t "9, "
#define FINEGRAIN_2(i) "+f"(sums[i]), "+f"(sums[i + 1])
#define FINEGRAIN_8(i) FINEGRAIN_2(i), FINEGRAIN_2(i + 2), FINEGRAIN_2(i + 4), FINEGRAIN_2(i + 6)
#define FINEGRAIN_32(i) FINEGRAIN_8(i), FINEGRAIN_8(i + 8), FINEGRAIN_8(i + 16), FINEGRAIN_8(i + 24)
#define FINEGRAIN_WGMMA_OF(type, n, registers, a, b, add, ta, tb, ...)                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add                                         \
               ", 0;\n"                                                                        \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers   \
               "}, " a ", " b ", p, 1, 1, " ta ", " tb ";\n}"                                  \
               : __VA_ARGS__                                                                   \
               : "l"(a_tile), "l"(b_tile), "r"(static_cast<int>(accumulate)), "n"(A_mn_major), \
                 "n"(B_mn_major))
#define FINEGRAIN_WGMMA(...)                   \
  do {                                         \
    if constexpr (std::is_same_v<T, fp16>)     \
      FINEGRAIN_WGMMA_OF("f16", __VA_ARGS__);  \
    else                                       \
      FINEGRAIN_WGMMA_OF("bf16", __VA_ARGS__); \
  } while (false)

/// sums (64, 2 * Registers) = A B, or += with accumulate. T: bf16 or fp16. Between wgmma_fence and
/// wgmma_commit; the sums are complete, and A and B free, behind wgmma_wait.
template <int A_mn_major = 0, int B_mn_major = 0, class T = bf16, int Registers>
__device__ void wgmma(float (&sums)[Registers], std::uint64_t a_tile, std::uint64_t b_tile,
                      bool accumulate) {
  static_assert(Registers == 4 || Registers == 8 || (Registers % 16 == 0 && Registers <= 128),
                "N is 8, 16, or a multiple of 32, up to 256");
  if constexpr (Registers == 4) {
    FINEGRAIN_WGMMA("8", "%0, %1, %2, %3", "%4", "%5", "%6", "%7", "%8", FINEGRAIN_2(0),
                    FINEGRAIN_2(2));
  } else if constexpr (Registers == 8) {
    FINEGRAIN_WGMMA("16", "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", "%10", "%11", "%12",
                    FINEGRAIN_8(0));
  } else if constexpr (Registers == 16) {
    FINEGRAIN_WGMMA("32", FINEGRAIN_TEN("") "%10, %11, %12, %13, %14, %15", "%16", "%17", "%18",
                    "%19", "%20", FINEGRAIN_8(0), FINEGRAIN_8(8));
  } else if constexpr (Registers == 48) {
    FINEGRAIN_WGMMA("96",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2")
                        FINEGRAIN_TEN("3") "%40, %41, %42, %43, %44, %45, %46, %47",
                    "%48", "%49", "%50", "%51", "%52", FINEGRAIN_32(0), FINEGRAIN_8(32),
                    FINEGRAIN_8(40));
  } else if constexpr (Registers == 80) {
    FINEGRAIN_WGMMA("160",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") FINEGRAIN_TEN("3")
                        FINEGRAIN_TEN("4") FINEGRAIN_TEN("5")
                            FINEGRAIN_TEN("6") "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79",
                    "%80", "%81", "%82", "%83", "%84", FINEGRAIN_32(0), FINEGRAIN_32(32),
                    FINEGRAIN_8(64), FINEGRAIN_8(72));
  } else if constexpr (Registers == 112) {
    FINEGRAIN_WGMMA("224",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") FINEGRAIN_TEN("3")
                        FINEGRAIN_TEN("4") FINEGRAIN_TEN("5") FINEGRAIN_TEN("6") FINEGRAIN_TEN("7")
                            FINEGRAIN_TEN("8") FINEGRAIN_TEN("9") FINEGRAIN_TEN("10") "%110, %111",
                    "%112", "%113", "%114", "%115", "%116", FINEGRAIN_32(0), FINEGRAIN_32(32),
                    FINEGRAIN_32(64), FINEGRAIN_8(96), FINEGRAIN_8(104));
  } else if constexpr (Registers == 32) {
    FINEGRAIN_WGMMA("64", FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") "%30, %31", "%32",
                    "%33", "%34", "%35", "%36", FINEGRAIN_32(0));
  } else if constexpr (Registers == 64) {
    FINEGRAIN_WGMMA("128",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") FINEGRAIN_TEN("3")
                        FINEGRAIN_TEN("4") FINEGRAIN_TEN("5") "%60, %61, %62, %63",
                    "%64", "%65", "%66", "%67", "%68", FINEGRAIN_32(0), FINEGRAIN_32(32));
  } else if constexpr (Registers == 96) {
    FINEGRAIN_WGMMA("192",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") FINEGRAIN_TEN("3")
                        FINEGRAIN_TEN("4") FINEGRAIN_TEN("5") FINEGRAIN_TEN("6") FINEGRAIN_TEN("7")
                            FINEGRAIN_TEN("8") "%90, %91, %92, %93, %94, %95",
                    "%96", "%97", "%98", "%99", "%100", FINEGRAIN_32(0), FINEGRAIN_32(32),
                    FINEGRAIN_32(64));
  } else {
    FINEGRAIN_WGMMA("256",
                    FINEGRAIN_TEN("") FINEGRAIN_TEN("1") FINEGRAIN_TEN("2") FINEGRAIN_TEN("3")
                        FINEGRAIN_TEN("4") FINEGRAIN_TEN("5") FINEGRAIN_TEN("6") FINEGRAIN_TEN("7")
                            FINEGRAIN_TEN("8") FINEGRAIN_TEN("9") FINEGRAIN_TEN("10") FINEGRAIN_TEN(
                                "11") "%120, %121, %122, %123, %124, %125, %126, %127",
                    "%128", "%129", "%130", "%131", "%132", FINEGRAIN_32(0), FINEGRAIN_32(32),
                    FINEGRAIN_32(64), FINEGRAIN_32(96));
  }
}

/// The same of e4m3 numbers: sums (64, 128) = or += A (64, 32) . B (32, 128), both K-major, panels of
/// 128 numbers a row. The next 32 of K: k_step_k_major. (Sums keep about 14 bits: promote them.)
__device__ inline void wgmma_e4m3(float (&sums)[64], std::uint64_t a_tile, std::uint64_t b_tile,
                                  bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" FINEGRAIN_TEN("") FINEGRAIN_TEN("1")
          FINEGRAIN_TEN("2") FINEGRAIN_TEN("3") FINEGRAIN_TEN("4")
              FINEGRAIN_TEN("5") "%60, %61, %62, %63}, %64, %65, p, 1, 1;\n}"
      : FINEGRAIN_32(0), FINEGRAIN_32(32)
      : "l"(a_tile), "l"(b_tile), "r"(static_cast<int>(accumulate)));
}

#undef FINEGRAIN_TEN
#undef FINEGRAIN_2
#undef FINEGRAIN_8
#undef FINEGRAIN_32
#undef FINEGRAIN_WGMMA
#undef FINEGRAIN_WGMMA_OF

/// Registers that each thread of this warpgroup has from here on: given back, or taken.
template <int Registers>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

#endif

}  // namespace device::hopper
}  // namespace finegrain::inline FINEGRAIN_ABI
