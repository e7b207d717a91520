// fp8_products' rows of x: each token's numbers become codes and scales once, and go to all rows of
// experts that read it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../fp8.hpp"
#include "../memory.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::fp8 {

/// The scale of numbers of which the largest has this magnitude, and the factor that makes codes.
__device__ inline void scale_of(float most, float& scale, float& inverse) {
  bool const zeros = most < 0x1p-100f;  // below, 448 / most may be infinite; not so where NaN
  scale = zeros ? 0 : most / 448;
  inverse = zeros ? 0 : 448 / most;
}
/// The nearest e4m3 codes, the first in the lower byte; at most 448.
__device__ inline std::uint32_t codes_of(float first, float second) {
#if __CUDA_ARCH__ >= 890
  std::uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  return codes;
#else
  return 0;  // fp8_products::available() is false
#endif
}

struct quantize_arguments {
  bf16 const* x;  // (T, D)
  int tokens, width, slots;
  fp8_rows routed, shared;       // null: none
  std::int32_t const* slot_row;  // (T, slots)
  row_tile const* tiles;
  std::int32_t const* tile_count;
};

inline constexpr int quantize_threads = 128;

/// Blocks 0 ... T - 1 have a token each, and a lane has 16 numbers, 8 lanes a part of 128. The
/// others write the pads of a tile of rows; the last one those of the shared expert's scales.
template <class T>
__global__ void __launch_bounds__(quantize_threads) quantize_kernel(quantize_arguments const a) {
  int const thread = threadIdx.x, block = blockIdx.x;
  std::int64_t const pitch = fp8_rows::pitch(a.width);
  if (block < a.tokens) {
    std::int64_t const t = block;
    // Whole warps loop: lanes of a part beyond D have zeros.
    for (int from = thread / 32 * 512; from < a.width; from += quantize_threads * 16) {
      int const column = from + thread % 32 * 16, part = column / 128;
      uint4 numbers[2] = {};
      if (column < a.width) {
        auto const x = reinterpret_cast<uint4 const*>(a.x + t * a.width + column);
        numbers[0] = x[0];
        if (column + 8 < a.width) numbers[1] = x[1];
      }
      float x[16], most = 0, scale, inverse;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        std::uint32_t const pair = reinterpret_cast<std::uint32_t const*>(numbers)[i];
        x[2 * i] = __uint_as_float(pair << 16);
        x[2 * i + 1] = __uint_as_float(pair & 0xffff0000u);
        most = fmaxf(most, fmaxf(fabsf(x[2 * i]), fabsf(x[2 * i + 1])));
      }
#pragma unroll
      for (int i = 1; i < 8; i *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, i));
      scale_of(most, scale, inverse);
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] = codes_of(x[4 * i] * inverse, x[4 * i + 1] * inverse) |
                   codes_of(x[4 * i + 2] * inverse, x[4 * i + 3] * inverse) << 16;
      if (column >= a.width) continue;
      auto const put = [&](fp8_rows const& to, std::int64_t row) {
        *reinterpret_cast<uint4*>(to.codes + row * pitch + column) =
            make_uint4(words[0], words[1], words[2], words[3]);
        if (thread % 8 == 0) to.scales[part * to.rows + row] = scale;
      };
      if (a.shared.codes) put(a.shared, t);
      if (a.routed.codes)
        for (int j = 0; j < a.slots; ++j)
          if (int const row = a.slot_row[t * a.slots + j]; row >= 0) put(a.routed, row);
    }
    return;
  }
  int const parts = fp8_rows::parts(a.width);
  auto const clear = [&](fp8_rows const& to, std::int64_t first, int count, bool codes) {
    if (codes)
      for (std::int64_t i = thread * 16; i < count * pitch; i += quantize_threads * 16)
        *reinterpret_cast<uint4*>(to.codes + first * pitch + i) = uint4{};
    for (int i = thread; i < count * parts; i += quantize_threads)
      to.scales[i / count * to.rows + first + i % count] = 0;
  };
  if (block == static_cast<int>(gridDim.x) - 1) {
    if (a.shared.codes)
      clear(a.shared, a.tokens, static_cast<int>(a.shared.rows - a.tokens), false);
  } else if (int const tile = block - a.tokens; a.routed.codes && tile < *a.tile_count) {
    row_tile const w = a.tiles[tile];
    clear(a.routed, std::int64_t{w.first} + w.count, 128 - w.count, true);
  }
}

template <class T>
void launch_quantize(expert_products<T> const& p, fp8_family const& routed,
                     fp8_family const& shared, CUstream_st* stream) {
  if (p.rows.tokens == 0) return;
  quantize_arguments a{};
  a.x = p.x;
  a.tokens = p.rows.tokens;
  a.width = p.hidden;
  a.slots = p.rows.slots;
  if (p.routed.width > 0) a.routed = routed.x;
  if (p.shared.width > 0) a.shared = shared.x;
  a.slot_row = p.rows.slot_row;
  a.tiles = p.rows.tiles;
  a.tile_count = p.rows.tile_count;
  std::int64_t const blocks = a.tokens + (a.routed.codes ? p.rows.max_tiles() : 0) + 1;
  quantize_kernel<T><<<static_cast<unsigned>(blocks), quantize_threads, 0, stream>>>(a);
  check_launch("quantize");
}

}  // namespace device::hopper::fp8
}  // namespace finegrain::inline FINEGRAIN_ABI
