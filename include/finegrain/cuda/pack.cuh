// Makes codes of weights: a block finds a scale's largest number, and then its codes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded.hpp"
#include "memory.cuh"
#include "tile/mma.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace packing {

inline constexpr int threads = 128;

/// The scale for numbers of which `most` is the largest, and the code nearest to x / scale, as
/// every executor makes them. fp8 is rounded to 3 bits of mantissa, ties to even.
template <format F>
__device__ bf16 scale_of(float most) {
  return bf16(fabsf(most) / (F == format::fp8 ? 448.0f : 127.0f));
}
template <format F>
__device__ std::uint32_t code_of(float x, float scale) {
  x = scale != 0 ? x / scale : 0.0f;
  if constexpr (F == format::int4) {
    return static_cast<std::uint32_t>(fminf(fmaxf(rintf(x), -8.0f), 7.0f) + 8);
  } else if constexpr (F == format::fp8) {
    float const a = fminf(fabsf(x), 448.0f);
    int const e = a < 0x1p-6f ? -6 : static_cast<int>(__float_as_uint(a) >> 23) - 127;
    // a = q * 2^(e - 3) with q in 8 ... 16, or below 8 where numbers are subnormal; 16 carries over
    float const q = rintf(a * __uint_as_float(static_cast<std::uint32_t>(127 + 3 - e) << 23));
    return (static_cast<std::uint32_t>(e + 6) << 3) + static_cast<std::uint32_t>(q) |
           (__float_as_uint(x) >> 31) << 7;
  } else {
    auto const m = static_cast<std::uint32_t>(fminf(rintf(fabsf(x)), 127.0f));
    return m | (x < 0 && m > 0 ? 128u : 0u);
  }
}
template <format F>
__device__ uint2 codes_of(float const (&x)[8], float scale) {
  std::uint32_t word[2] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    std::uint32_t const code = code_of<F>(x[i], scale);
    if constexpr (F == format::fp8) {
      word[i / 4] |= code << 8 * (i % 4);
    } else {
      int const byte = i % 2 * 2 + i / 2 % 2;
      word[i / 4] |= (code & 127) << 8 * byte | (code & 128) << 8 * (byte ^ 1);
    }
  }
  return {word[0], word[1]};
}

/// int4's scale, as cpu/codec.hpp chooses it, of 32 numbers of which four threads have 8 each. `most` is the
/// largest of them, `of_four` of the 128 that share a power of 2.
__device__ inline bf16 int4_scale(float const (&x)[8], float most, float of_four) {
  auto const bits = static_cast<int>((__float_as_uint(of_four) + 0x80000) & 0x7f800000);
  float const power = __int_as_float(max(bits - (6 << 23), 1 << 23));
  float const nearest = fminf(fmaxf(rintf(fabsf(most) / 8 / power), 1.0f), 15.0f);
  float best = 0, least = 0;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    float const times = i == 0   ? nearest
                        : i == 1 ? fmaxf(nearest - 1, 1.0f)
                                 : fminf(nearest + 1, 15.0f);
    float const scale = most > 0 ? times * -power : times * power;
    float sum = 0;  // of squares; an error in 16ths of the scale
    for (float const v : x) {
      float const y = v / scale;
      float const error = rintf((y - fminf(fmaxf(rintf(y), -8.0f), 7.0f)) * 16);
      sum += error * error;
    }
    for (int apart = 1; apart < 4; apart *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    sum *= times * times;
    if (i == 0 || sum < least) best = scale, least = sum;
  }
  if (power > 0x1p106f) best = __int_as_float(0x7fc00000);  // NaN, as of what is not finite
  return bf16(most == 0 ? 0.0f : best);
}

/// Row-major codes, int8 and fp8: a block has a row, or a square.
template <format F, class T>
__global__ void __launch_bounds__(threads)
    pack_rows(T const* from, int rows, int columns, std::uint8_t* to, bf16* scales) {
  int const pitch = static_cast<int>((columns + 63) / 64 * 64);
  int const high = F == format::int8 ? 1 : 128, wide = F == format::int8 ? pitch : 128;
  int const down = ceil_div(rows, high), across = ceil_div(columns, wide);
  auto const block = std::int64_t{blockIdx.x};
  std::int64_t const matrix = block / (down * across);
  int const place = static_cast<int>(block % (down * across));
  int const top = place / across * high, left = place % across * wide;
  auto const each_eight = [&](auto const& body) {
    for (int i = static_cast<int>(threadIdx.x); i < high * (wide / 8); i += threads) {
      int const r = top + i / (wide / 8), c = left + i % (wide / 8) * 8;
      if (r >= rows || c >= pitch) continue;
      float x[8] = {};
      if (c < columns) unpack<T>(x, load_eight(from + (matrix * rows + r) * columns + c));
      body(x, (matrix * rows + r) * pitch + c);
    }
  };
  __shared__ float mosts[threads / 32];
  float most = 0;
  each_eight([&](float const(&x)[8], std::int64_t) {
    for (float const v : x) most = fmaxf(most, fabsf(v));
  });
  for (int apart = 16; apart > 0; apart /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, apart));
  if (threadIdx.x % 32 == 0) mosts[threadIdx.x / 32] = most;
  __syncthreads();
  for (float const v : mosts) most = fmaxf(most, v);
  bf16 const scale = scale_of<F>(most);
  if (threadIdx.x == 0) scales[block] = scale;
  each_eight([&](float const(&x)[8], std::int64_t at) {
    *reinterpret_cast<uint2*>(to + at) = codes_of<F>(x, static_cast<float>(scale));
  });
}

/// Panels: a block has a step of one, a thread 8 columns of a row. `low` and `high` are the matrices
/// of a panel's rows 0-7 and 8-15; the same one twice: its rows are neighbours.
template <format F, class T>
__global__ void __launch_bounds__(threads)
    pack_panels(T const* low, T const* high, int rows, int columns, std::uint8_t* to) {
  int const in_panel = low == high ? 16 : 8, steps = (columns + 63) / 64;
  int const panels = ceil_div(rows, in_panel);
  auto const block = std::int64_t{blockIdx.x};
  std::int64_t const matrix = block / (std::int64_t{panels} * steps);
  int const place = static_cast<int>(block % (std::int64_t{panels} * steps));
  int const thread = static_cast<int>(threadIdx.x);
  int const half = thread / 64, g = thread / 8 % 8, part = thread / 4 % 2, c = thread % 4;
  int const row = place / steps * in_panel + g + (low == high ? 8 * half : 0);
  int const column = place % steps * 64 + 32 * part + 8 * c;
  float x[8] = {};
  T const* const from = (half ? high : low) + (matrix * rows + row) * columns;
  if (row < rows && column < columns) unpack<T>(x, load_eight(from + column));
  // The first of the largest ones counts, with its sign.
  float most = 0;
  for (float const v : x)
    if (fabsf(v) > fabsf(most)) most = v;
#pragma unroll
  for (int apart = 1; apart < 4; apart *= 2) {
    float const other = __shfl_xor_sync(0xffffffffu, most, apart);
    bool const later = (c & apart) == 0;
    if (later ? fabsf(other) > fabsf(most) : fabsf(other) >= fabsf(most)) most = other;
  }
  bf16 scale;
  if constexpr (F == format::int4) {  // this step's numbers and those of the other of its pair
    int const beside = (place % steps ^ 1) * 64 + 32 * part + 8 * c;
    float y[8] = {}, of_four = fabsf(most);
    if (row < rows && beside < columns) unpack<T>(y, load_eight(from + beside));
    for (float const v : y) of_four = fmaxf(of_four, fabsf(v));
#pragma unroll
    for (int apart = 1; apart < 8; apart *= 2)
      of_four = fmaxf(of_four, __shfl_xor_sync(0xffffffffu, of_four, apart));
    scale = int4_scale(x, most, of_four);
  } else {
    scale = scale_of<F>(most);
  }
  std::uint8_t* const step = to + block * panel_step(F);
  if constexpr (F == format::int4) {
    std::uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      word |= code_of<F>(x[i], static_cast<float>(scale)) << (i / 2 * 4 + i % 2 * 16);
    *reinterpret_cast<std::uint32_t*>(step + (4 * g + c) * 16 + half * 8 + part * 4) = word;
  } else {
    *reinterpret_cast<uint2*>(step + half * 512 + (4 * g + c) * 16 + part * 8) =
        codes_of<F>(x, static_cast<float>(scale));
  }
  if (c == 0) reinterpret_cast<bf16*>(step + panel_step(F) - 64)[4 * g + 2 * part + half] = scale;
}

/// Makes codes of `count` matrices (rows, columns): one after the other, or of each the panels.
template <format F, class T>
void pack(T const* from, int count, int rows, int columns, std::uint8_t* codes, bf16* scales,
          CUstream_st* stream) {
  if (std::int64_t{count} * rows * columns == 0) return;
  if constexpr (in_panels(F)) {
    std::int64_t const steps = std::int64_t{(rows + 15) / 16} * ((columns + 63) / 64);
    pack_panels<F><<<static_cast<unsigned>(count * steps), threads, 0, stream>>>(from, from, rows,
                                                                                 columns, codes);
  } else {
    pack_rows<F><<<static_cast<unsigned>(count * coded_family::scales(F, rows, columns)), threads,
                   0, stream>>>(from, rows, columns, codes, scales);
  }
  check_launch("packing");
}

}  // namespace packing
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
