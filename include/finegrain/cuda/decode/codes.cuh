// How the products of few tokens read weights as they are stored: as numbers, or as codes of 8 bits
// with scales, which become bf16 on their way from shared memory to mma.sync.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// Weights of 16 bits. A lane has `pieces` times 16 bytes of a row's step of 64 columns, from
/// column `columns` * (lane % 4) on.
template <class T>
struct plain {
  using number = T;
  static constexpr int pieces = 2, columns = 8;
  static constexpr bool scaled = false;
};

/// Of 8 bits. `scale` is an expert's first scale; rows are those of its matrix (rows, columns).
template <format F>
struct coded;
struct coded_bytes {
  using number = std::uint8_t;
  static constexpr int pieces = 1, columns = 16;
  static constexpr bool scaled = true;
};

/// Two pairs of neighbours' values of the four codes in a word.
template <>
struct coded<format::int8> : coded_bytes {
  static __device__ void decode(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
    first = pair(__byte_perm(word, 0, 0x4140));
    second = pair(__byte_perm(word, 0, 0x4342));
  }
  /// A code, sign and magnitude, in the lower half of each 16 bits: 128 + magnitude are bf16's 7
  /// bits of a number from 128 to 255.
  static __device__ std::uint32_t pair(std::uint32_t codes) {
    std::uint32_t value;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(value)
        : "r"((codes & 0x007f007fu) | 0x43004300u), "r"(0x3f803f80u), "r"(0xc300c300u));
    return value | (codes & 0x00800080u) << 8;
  }
  static __device__ int scale(int expert, int row, int rows, int) { return expert * rows + row; }
  static __device__ int scale_at(int) { return 0; }
};
template <>
struct coded<format::fp8> : coded_bytes {
  static __device__ void decode(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
    first = pair(__byte_perm(word, 0, 0x1404));
    second = pair(__byte_perm(word, 0, 0x3424));
  }
  /// A code in the upper half of each 16 bits: its exponent and mantissa as bf16's are 2^-120 times
  /// the value, of subnormal numbers too.
  static __device__ std::uint32_t pair(std::uint32_t codes) {
    std::uint32_t value;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(value)
        : "r"((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u)), "r"(0x7b807b80u),
          "r"(0x80008000u));
    return value;
  }
  static __device__ int scale(int expert, int row, int rows, int columns) {
    return (expert * ((rows + 127) / 128) + row / 128) * ((columns + 127) / 128);
  }
  static __device__ int scale_at(int k) { return k / 128; }
};

/// An expert family's weights as a kernel takes them.
template <class W>
struct family_weights {
  typename W::number const *gate, *up, *down;
  bf16 const *gate_scales, *up_scales, *down_scales;
};
template <class T>
family_weights<plain<T>> weights_of(expert_family<T> const& f) {
  return {f.gate, f.up, f.down, nullptr, nullptr, nullptr};
}
template <format F>
family_weights<coded<F>> weights_of(coded_family const& f) {
  return {f.gate, f.up, f.down, f.gate_scales, f.up_scales, f.down_scales};
}

}  // namespace decode
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
