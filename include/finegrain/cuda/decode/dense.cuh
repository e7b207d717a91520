// Products of few tokens with one matrix of codes. A block has some rows of weights, whose columns
// its warps share out, so that all of them stream and a token's row is read once a block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ring.cuh"
#include "unit.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// y (tokens, rows) = or += x (tokens, columns) . down^T; or Up: act(x . gate^T) (x . up^T). Rows
/// of x begin on 16-byte borders.
template <class T, class W>
struct dense_product {
  family_weights<W> weights;
  int tokens, rows, columns;
  T const* x;
  std::int64_t x_stride;
  T* y;
  std::int64_t y_stride;
  gradients mode = gradients::overwrite;
  glu act = activation::swiglu;
};

/// A block of Blocks times 16 weight rows and Groups times 8 tokens.
template <class W, int Groups, int Blocks>
struct dense_shape {
  static constexpr int depth = 4, sums = Groups * Blocks;
  using ring_type = ring<W, Blocks, depth>;
  /// The warps' sums take the ring's place.
  static constexpr int bytes = at_least(warps * ring_type::warp_bytes, warps* sums * 512);
};

template <class T, class W, int Groups, int Blocks, bool Up>
__global__ void __launch_bounds__(threads)
    dense_kernel(__grid_constant__ dense_product<T, W> const p) {
  using S = dense_shape<W, Groups, Blocks>;
  extern __shared__ uint4 memory[];
  int const warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int const output = static_cast<int>(blockIdx.x) * (Blocks * outputs<Up>);
  int const K = p.columns, groups = (p.tokens + 7) / 8;

  lane_weights<W, Up> from[Blocks];
#pragma unroll
  for (int m = 0; m < Blocks; ++m) from[m] = {p.weights, 0, output + m * outputs<Up>, p.rows, K};
  typename S::ring_type weights(memory);
  int ahead = warp * step;
  auto const issue = [&] {
    if (ahead < K) {
      int const at = from[0].before(ahead);
#pragma unroll
      for (int m = 0; m < Blocks; ++m) weights.issue(m, from[m].low + at, from[m].high + at);
      ahead += warps * step;
    }
    weights.next();
  };
  for (int i = 0; i < S::depth; ++i) issue();
  wait_for_launch_ahead();  // which may have made x

  uint4 const* rows[Groups];
#pragma unroll
  for (int j = 0; j < Groups; ++j)  // where there is no token, the last one, which is not stored
    rows[j] = reinterpret_cast<uint4 const*>(
        p.x + min(8 * j + lane / 4, p.tokens - 1) * p.x_stride + lane_column<W>());
  uint4 b[Groups][2];
  auto const load = [&](int k) {
    if (k < K) {
#pragma unroll
      for (int j = 0; j < Groups; ++j)
        if (j == 0 || j < groups) load_row<W>(b[j], rows[j] + k / 8, K - k);
    }
  };
  float sum[Blocks][Groups][4] = {}, scale[Blocks][2][2];
  load(warp * step);
  for (int k = warp * step; k < K; k += warps * step) {
    if constexpr (W::scale == scales::square) {
#pragma unroll
      for (int m = 0; m < Blocks; ++m) from[m].scales_of(p.weights, k, scale[m][0]);
    }
    weights.wait();
#pragma unroll
    for (int m = 0; m < Blocks; ++m) {
      std::uint32_t a[4][4];
      weights.take(a, m);
      if constexpr (W::scale == scales::inside) weights.take_scales(scale[m], m);
#pragma unroll
      for (int j = 0; j < Groups; ++j)
        if (j == 0 || j < groups) multiply_scaled<T, W>(sum[m][j], a, b[j], scale[m]);
    }
    load(k + warps * step);
    issue();
  }
  if constexpr (W::scale == scales::row) {
#pragma unroll
    for (int m = 0; m < Blocks; ++m) {
      from[m].scales_of(p.weights, 0, scale[m][0]);
#pragma unroll
      for (int j = 0; j < Groups; ++j)
        for (int i = 0; i < 4; ++i) sum[m][j][i] *= scale[m][0][i / 2];
    }
  }

  wait_async<0>();
  __syncthreads();
  auto* const parts = reinterpret_cast<float4*>(memory) + lane;
#pragma unroll
  for (int i = 0; i < S::sums; ++i) {
    float const(&s)[4] = sum[i / Groups][i % Groups];
    parts[(warp * S::sums + i) * 32] = {s[0], s[1], s[2], s[3]};
  }
  __syncthreads();
  auto const store = [&](int token, int row, float value) {
    if (token >= p.tokens || row >= p.rows) return;
    T* const y = p.y + token * p.y_stride + row;
    *y = T(p.mode == gradients::accumulate ? static_cast<float>(*y) + value : value);
  };
  for (int i = warp; i < S::sums; i += warps) {
    float4 total = parts[i * 32];
    for (int w = 1; w < warps; ++w) {
      float4 const v = parts[(w * S::sums + i) * 32];
      total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
    }
    int const row = output + i / Groups * outputs<Up> + lane / 4,
              token = 8 * (i % Groups) + lane % 4 * 2;
    if constexpr (Up) {
      store(token, row, gate_one(p.act, total.x, total.z));
      store(token + 1, row, gate_one(p.act, total.y, total.w));
    } else {
      store(token, row, total.x), store(token + 1, row, total.y);
      store(token, row + 8, total.z), store(token + 1, row + 8, total.w);
    }
  }
}

template <int Groups, int Blocks, bool Up, class T, class W>
void dense(dense_product<T, W> const& p, CUstream_st* stream, char const* name) {
  auto const kernel = dense_kernel<T, W, Groups, Blocks, Up>;
  constexpr int bytes = dense_shape<W, Groups, Blocks>::bytes, high = Blocks * outputs<Up>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  launch_overlapping(kernel, dim3(static_cast<unsigned>(ceil_div(p.rows, high))), threads, bytes,
                     stream, name, p);
}
/// For up to most_streamed tokens.
template <bool Up, class T, class W>
void dense(dense_product<T, W> const& p, CUstream_st* stream, char const* name) {
  static_assert(most_streamed <= 64);
  if (p.tokens == 0 || p.rows == 0) return;
  if (p.tokens <= 8) return dense<1, 1, Up>(p, stream, name);
  if (p.tokens <= 16) return dense<2, 1, Up>(p, stream, name);
  dense<8, 2, Up>(p, stream, name);
}

}  // namespace decode
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
