// Numbers as they are stored, and as f32: all that depends on which of bf16, fp16 and float T is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../base/number.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Whether tensor cores multiply such numbers; those of 32 bits are multiplied one by one.
template <class T>
inline constexpr bool in_pairs = sizeof(T) == 2;

/// Numbers in 16 bytes.
template <class T>
inline constexpr int in_chunk = 16 / static_cast<int>(sizeof(T));

/// Two neighbours of a row as they are stored, the left one below: a word of bf16 or of fp16.
template <class T>
__device__ std::uint32_t pack(float left, float right) {
  static_assert(in_pairs<T>);
  std::uint32_t word;
  if constexpr (std::is_same_v<T, fp16>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(right), "f"(left));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(right), "f"(left));
  return word;
}
template <class T>
__device__ float2 unpack(std::uint32_t word) {
  static_assert(in_pairs<T>);
  if constexpr (std::is_same_v<T, fp16>) {
    float2 two;
    asm("{.reg .b16 left, right;\nmov.b32 {left, right}, %2;\ncvt.f32.f16 %0, left;\n"
        "cvt.f32.f16 %1, right;}"
        : "=f"(two.x), "=f"(two.y)
        : "r"(word));
    return two;
  } else {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  }
}

/// Eight numbers as they lie in memory, on a 16-byte border.
template <class T>
struct eight {
  uint4 words[sizeof(T) / 2];
};

template <class T>
__device__ eight<T> load_eight(T const* from) {
  eight<T> e;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i)
    e.words[i] = reinterpret_cast<uint4 const*>(from)[i];
  return e;
}
/// The same of memory that nobody writes while the kernel runs.
template <class T>
__device__ eight<T> load_eight_constant(T const* from) {
  eight<T> e;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i)
    e.words[i] = __ldg(reinterpret_cast<uint4 const*>(from) + i);
  return e;
}
template <class T>
__device__ void store_eight(T* to, eight<T> const& e) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i)
    reinterpret_cast<uint4*>(to)[i] = e.words[i];
}

/// To T, to the nearest, and back.
template <class T>
__device__ eight<T> pack(float const (&from)[8]) {
  if constexpr (in_pairs<T>)
    return {{{pack<T>(from[0], from[1]), pack<T>(from[2], from[3]), pack<T>(from[4], from[5]),
              pack<T>(from[6], from[7])}}};
  else
    return {{{__float_as_uint(from[0]), __float_as_uint(from[1]), __float_as_uint(from[2]),
              __float_as_uint(from[3])},
             {__float_as_uint(from[4]), __float_as_uint(from[5]), __float_as_uint(from[6]),
              __float_as_uint(from[7])}}};
}
template <class T>
__device__ void unpack(float (&to)[8], eight<T> const& from) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) {
    std::uint32_t const words[4] = {from.words[i].x, from.words[i].y, from.words[i].z,
                                    from.words[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (in_pairs<T>) {
        float2 const two = unpack<T>(words[j]);
        to[2 * j] = two.x, to[2 * j + 1] = two.y;
      } else {
        to[4 * i + j] = __uint_as_float(words[j]);
      }
    }
  }
}

/// Two neighbours, on the border of both.
template <class T>
__device__ float2 load_two(T const* from) {
  if constexpr (in_pairs<T>)
    return unpack<T>(*reinterpret_cast<std::uint32_t const*>(from));
  else
    return *reinterpret_cast<float2 const*>(from);
}
template <class T>
__device__ void store_two(T* to, float left, float right) {
  if constexpr (in_pairs<T>)
    *reinterpret_cast<std::uint32_t*>(to) = pack<T>(left, right);
  else
    *reinterpret_cast<float2*>(to) = {left, right};
}

/// One.
template <class T>
__device__ float load_one(T const* from) {
  if constexpr (in_pairs<T>)
    return unpack<T>(reinterpret_cast<std::uint16_t const&>(*from)).x;
  else
    return *from;
}
template <class T>
__device__ void store_one(T* to, float x) {
  if constexpr (in_pairs<T>)
    reinterpret_cast<std::uint16_t&>(*to) = static_cast<std::uint16_t>(pack<T>(x, 0));
  else
    *to = x;
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
