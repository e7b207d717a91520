// AMX's registers in a thread's memory, after Intel's manual: to run kernels on machines without
// them, and to compare the machine's with.
//
//   c++ -march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512bf16 -include tests/isa/amx_elsewhere.hpp ...
//
// Included ahead of the library it takes AMX's place in cpu/amx.hpp. What the processor would refuse
// ends the program in a sentence. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if !defined(FINEGRAIN_HAS_AMX)
#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
#define __AMX_INT8__ 1
#define FINEGRAIN_AMX_ELSEWHERE ::amx_elsewhere
#endif

namespace amx_elsewhere {

/// What LDTILECFG reads.
struct configuration {
  std::uint8_t palette, start, reserved[14];
  std::uint16_t bytes[16];  // of a row
  std::uint8_t rows[16];
};
struct state {
  configuration now;  // palette 0: none
  alignas(64) unsigned char registers[8][16][64];
};
inline thread_local constinit state mine{};

inline void demand(bool holds, char const* sentence) {
  if (holds) return;
  std::fprintf(stderr, "AMX: %s\n", sentence);
  std::abort();
}
/// Bytes of a row, and rows, of a register that is in use.
struct extent {
  int rows, bytes;
  explicit extent(int i) : rows(mine.now.rows[i]), bytes(mine.now.bytes[i]) {
    demand(mine.now.palette == 1, "registers are used that were not configured");
    demand(rows > 0, "a register is used that has no rows");
  }
};

inline bool allowed() { return true; }

template <class Shape>
void begin(Shape const& shape) {
  static_assert(sizeof shape == sizeof(configuration));
  std::memset(&mine, 0, sizeof mine);
  std::memcpy(&mine.now, &shape, sizeof shape);
  configuration const& now = mine.now;
  demand(now.palette == 1, "only palette 1 is known");
  demand(now.start == 0, "no load or store was interrupted");
  for (std::uint8_t const byte : now.reserved) demand(byte == 0, "a reserved byte is not 0");
  for (int i = 0; i < 16; ++i) {
    demand(i < 8 || now.rows[i] + now.bytes[i] == 0, "there are 8 registers");
    demand(now.rows[i] <= 16 && now.bytes[i] <= 64, "a register has up to 16 rows of 64 bytes");
    demand((now.rows[i] == 0) == (now.bytes[i] == 0), "a register has rows and bytes, or neither");
  }
}
inline void end() { std::memset(&mine, 0, sizeof mine); }

template <int At>
void zero() {
  static_cast<void>(extent(At));
  std::memset(mine.registers[At], 0, sizeof mine.registers[At]);
}
/// What the shape has not becomes 0.
template <int To>
void load(void const* from, std::int64_t stride) {
  extent const to(To);
  zero<To>();
  for (int r = 0; r < to.rows; ++r)
    std::memcpy(mine.registers[To][r], static_cast<char const*>(from) + r * stride,
                static_cast<std::size_t>(to.bytes));
}
template <int To>
void load_once(void const* from, std::int64_t stride) {
  load<To>(from, stride);
}
template <int From>
void store(void* to, std::int64_t stride) {
  extent const from(From);
  for (int r = 0; r < from.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, mine.registers[From][r],
                static_cast<std::size_t>(from.bytes));
}

using floats = float __attribute__((vector_size(64)));
using words = std::uint32_t __attribute__((vector_size(64)));

/// While it lives, arithmetic rounds to nearest, subnormal numbers are 0 before it and after it, and
/// nothing is signalled: what the registers' products do, whatever a thread has set.
class arithmetic {
 public:
  arithmetic() {
    asm volatile("stmxcsr %0" : "=m"(before_));
    unsigned const now = 0x9fc0;
    asm volatile("ldmxcsr %0" : : "m"(now));
  }
  arithmetic(arithmetic const&) = delete;
  ~arithmetic() { asm volatile("ldmxcsr %0" : : "m"(before_)); }

  // Volatile, or compilers move them to where another arithmetic holds.
  void add_product(floats a, floats b, floats& sum) const {
    asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  void add(floats a, floats& sum) const { asm volatile("vaddps %1, %0, %0" : "+v"(sum) : "v"(a)); }

 private:
  unsigned before_;
};

/// What a product's registers have, which must fit one another.
struct extents {
  extent sum, a, b;
};
template <int Sum, int A, int B>
extents product() {
  static_assert(Sum != A && Sum != B && A != B, "a product's registers are three");
  extents const all{extent(Sum), extent(A), extent(B)};
  auto const& [sum, a, b] = all;
  demand(sum.bytes % 4 == 0 && a.bytes % 4 == 0 && b.bytes % 4 == 0, "a row has whole units");
  demand(sum.rows == a.rows, "a product has not as many rows as its left side");
  demand(sum.bytes == b.bytes, "a product has not as many columns as its right side");
  demand(a.bytes / 4 == b.rows, "a product's sides have not as many units along k");
  return all;
}

/// TDPBF16PS.
template <int Sum, int A, int B>
void add_product() {
  auto const [sum, a, b] = product<Sum, A, B>();
  arithmetic const as_there;
  for (int r = 0; r < sum.rows; ++r) {
    floats even{}, odd{}, total;
    for (int k = 0; k < b.rows; ++k) {
      std::uint32_t unit;
      words column;
      std::memcpy(&unit, mine.registers[A][r] + 4 * k, 4);
      std::memcpy(&column, mine.registers[B][k], 64);
      words const row = words{} + unit;
      as_there.add_product(reinterpret_cast<floats>(row << 16),
                           reinterpret_cast<floats>(column << 16), even);
      as_there.add_product(reinterpret_cast<floats>(row & 0xffff0000u),
                           reinterpret_cast<floats>(column & 0xffff0000u), odd);
    }
    std::memcpy(&total, mine.registers[Sum][r], 64);
    as_there.add(odd, even);
    as_there.add(even, total);
    std::memset(mine.registers[Sum][r], 0, 64);
    std::memcpy(mine.registers[Sum][r], &total, static_cast<std::size_t>(sum.bytes));
  }
}

/// TDPBSUD.
template <int Sum, int A, int B>
void add_bytes() {
  auto const [sum, a, b] = product<Sum, A, B>();
  for (int r = 0; r < sum.rows; ++r)
    for (int c = 0; c < sum.bytes; c += 4) {
      std::uint32_t total;
      std::memcpy(&total, mine.registers[Sum][r] + c, 4);
      for (int k = 0; k < a.bytes; ++k) {
        int const x = static_cast<std::int8_t>(mine.registers[A][r][k]);
        int const y = mine.registers[B][k / 4][c + k % 4];
        total += static_cast<std::uint32_t>(x * y);
      }
      std::memcpy(mine.registers[Sum][r] + c, &total, 4);
    }
}

}  // namespace amx_elsewhere
