// backward_rows: the products of backward whose rows are rows of experts, down_backward and
// up_backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"
#include "deal.hpp"
#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::backward {

/// act(z) and its derivative. Both activations are z s(v), s the logistic function, v = z for SiLU;
/// for GELU, (1 + tanh(v / 2)) / 2 = s(v), v = 2 a (z + b z^3). So v = linear z + cubic z^3.
struct gate_function {
  float linear, cubic;
  explicit gate_function(activation act)
      : linear(act == activation::swiglu ? 1.f : 2 * 0.7978845608f),
        cubic(act == activation::swiglu ? 0.f : 2 * 0.7978845608f * 0.044715f) {}
  __device__ float2 operator()(float z) const {
    float const cubic_z2 = cubic * z * z;
    float const s = __fdividef(1, 1 + __expf(-z * (linear + cubic_z2))), value = z * s;
    return {value, s + value * (1 - s) * (linear + 3 * cubic_z2)};
  }
};

/// (rows, K) (K, N). K is in `parts`, one behind the other, each of `steps` times 64.
template <class T>
struct rows_family {
  CUtensorMap a;      // of up_backward: (rows, parts, K)
  CUtensorMap b[2];   // of a part: (experts, K, N)
  CUtensorMap z, dz;  // of down_backward: (rows, 2, N)
  CUtensorMap out;    // (1, rows, N): out of up_backward, hidden of down_backward
  expert_family<T> of;
  int steps, columns, column_tiles, dot_parts;
};
template <class T>
struct rows_arguments {
  rows_family<T> shared, routed;
  row_map rows;
  T const* dy;
  int hidden;       // D
  int shared_rows;  // tiles of
  gate_function activated;
};

template <bool down>
struct rows_shape {
  static constexpr int parts = down ? 1 : 2;
  static constexpr int stages = 4, staged = down ? 0 : 2;  // panels of a warpgroup
  static constexpr int producers = 128, threads = consumers + producers;
  using buffers = ring_shape<stages>;
  static constexpr int shared_bytes = buffers::size + 2 * staged * panel_64 + buffers::barriers;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

using rows_ring = ring<rows_shape<true>::stages>;

/// From g = sums (64, 256) of warpgroup w of the tile at `row`: dz, hidden, dot. z comes through the
/// ring, 64 columns a stage, the gate's as A, the up's in B; dz takes its place, hidden stands behind
/// it, and both leave from there, 16 rows a warp. The sums are used up: a real loop, whose registers
/// move on, keeps the code small.
template <class T>
__device__ void gate_backward(float (&sums)[128], rows_family<T> const& family,
                              float const* weights, gate_function const& activated, int w, int row,
                              int rows, int first_column, rows_ring& r) {
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  row += w * 64 + warp * 16;
  int const last_column = min(first_column + 256, family.of.width);
  std::uint32_t const band = w * panel_64 + warp * 16 * 128;  // of a panel of 128 rows
  std::uint32_t const place = swizzled(lane % 16, 0);
  float weight[2], dot[2] = {0, 0};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    int const of = row + lane / 4 + 8 * h;
    weight[h] = weights && of < rows ? weights[of] : 1.f;
  }
  std::uint32_t last = 0;  // the stage that stores may still read
#pragma unroll 1
  for (int column = first_column; column < last_column; column += 64) {
    std::uint32_t const gate = r.a() + band, up = r.b() + band, hidden = up + 2 * panel_64;
    std::uint32_t const at = (lane < 16 ? gate : up) + place;
    r.wait_filled();
#pragma unroll
    for (int j = 0; j < 8; ++j) {  // 8 columns
      std::uint32_t z[4], out[2];  // the gate's rows and those 8 on; the up's
      load_matrices<false>(at ^ j << 4, z);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float const* const g = sums + 4 * j + 2 * h;
        float2 const low = activated(lower(z[h])), high = activated(upper(z[h]));
        float const u0 = lower(z[2 + h]), u1 = upper(z[2 + h]);
        float const g0 = weight[h] * g[0], g1 = weight[h] * g[1];
        dot[h] += g[0] * (low.x * u0) + g[1] * (high.x * u1);
        out[h] = packed_pair(weight[h] * (low.x * u0), weight[h] * (high.x * u1));
        z[h] = packed_pair(g0 * u0 * low.y, g1 * u1 * high.y);
        z[2 + h] = packed_pair(g0 * low.x, g1 * high.x);
      }
      store_matrices(at ^ j << 4, z[0], z[1], z[2], z[3]);
      store_two_matrices((hidden + place) ^ j << 4, out[0], out[1]);
    }
    fence_panels();
    __syncwarp();
    if (lane == 0) {
      store(&family.dz, row, 0, column, gate);
      store(&family.dz, row, 1, column, up);
      store(&family.out, 0, row, column, hidden);
      store_commit();
      if (column > first_column) {
        store_wait_read<1>();
        arrive(last);
      }
    }
    __syncwarp();
    last = r.emptied();
    r.advance();
#pragma unroll
    for (int i = 0; i < 96; ++i) sums[i] = sums[i + 32];

    if (column % 128 != 64 && column + 64 < last_column) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      dot[h] += __shfl_xor_sync(~0u, dot[h], 1);
      dot[h] += __shfl_xor_sync(~0u, dot[h], 2);
      int const of = row + lane / 4 + 8 * h;
      if (family.of.dot && of < rows && lane % 4 == 0)
        family.of.dot[std::int64_t{of} * family.dot_parts + column / 128] = dot[h];
      dot[h] = 0;
    }
  }
  if (lane == 0) {
    store_wait_read<0>();
    arrive(last);
  }
}

template <class T>
struct rows_tile {
  rows_family<T> const& family;
  bool routed;
  int expert, row, column;

  __device__ rows_tile(rows_arguments<T> const& g, int shared, int tile)
      : family(tile < shared ? g.shared : g.routed), routed(tile >= shared) {
    int const i = routed ? tile - shared : tile, m = i / family.column_tiles;
    // The last column may be narrow: no block should get that one in each of its rounds.
    int const blocks = static_cast<int>(gridDim.x), rows = blocks / family.column_tiles;
    int const turn = rows > 0 && blocks % family.column_tiles == 0 ? m / rows : 0;
    column = (i + turn) % family.column_tiles * 256;
    if (routed) {
      row_tile const t = g.rows.tiles[m];
      expert = t.expert, row = t.first;
    } else {
      expert = 0, row = m * 128;
    }
  }
};

/// One thread asks for boxes. In down_backward all producers fetch A, rows of dy.
template <class T, bool down>
__device__ void produce_rows(rows_arguments<T> const& g, tile_deal const& deal, rows_ring r) {
  using shape = rows_shape<down>;
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, chunk = lane % 8;
  int const first = warp * 32 + lane / 8;  // of this thread's rows of A: this and each fourth
  bool const leader = threadIdx.x == consumers;
  for (int i = deal.first(); i < deal.total; i = deal.next(i)) {
    rows_tile<T> const t(g, deal.shared, i);
    std::int32_t token[8];
    if constexpr (down) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        int const row = t.row + first + 4 * j;
        token[j] = t.routed ? g.rows.row_token[row] : row < g.rows.tokens ? row : -1;
      }
    }
    for (int part = 0; part < shape::parts; ++part)
      for (int step = 0; step < t.family.steps; ++step) {
        r.wait_emptied();
        if (!down || leader) {
          int const panels = t.family.columns - t.column > 128 ? 4 : 2;
          arrive_and_expect(r.filled(), panels * panel_64 + (down ? 0 : r.a_bytes));
          if (!down) load(r.a(), &t.family.a, t.row, part, step * 64, r.filled());
          for (int n = 0; n < panels; ++n)
            load(r.b() + n * panel_64, &t.family.b[part], t.expert, step * 64, t.column + n * 64,
                 r.filled());
        }
        if constexpr (down) {
          __syncwarp();
          int const k = step * 64 + chunk * 8;
#pragma unroll
          for (int j = 0; j < 8; ++j)
            gather_16(r.a() + swizzled(first + 4 * j, chunk),
                      g.dy + k + std::int64_t{token[j]} * g.hidden, token[j] >= 0 && k < g.hidden);
          gather_arrive(r.filled());
        }
        r.advance();
      }
    int const last_column = min(t.column + 256, t.family.columns);
    for (int column = t.column; down && column < last_column; column += 64) {
      r.wait_emptied();
      if (!down || leader) {
        arrive_and_expect(r.filled(), 4 * panel_64);
        load(r.a(), &t.family.z, t.row, 0, column, r.filled());
        load(r.b(), &t.family.z, t.row, 1, column, r.filled());
      }
      if (down) gather_arrive(r.filled());
      r.advance();
    }
  }
}

/// `w` is the consumer's half of the rows.
template <class T, bool down>
__device__ void consume_rows(rows_arguments<T> const& g, tile_deal const& deal, rows_ring r,
                             std::uint32_t staging) {
  using shape = rows_shape<down>;
  int const w = threadIdx.x / 128;
  float sums[128];
  sums_store<false> out{staging, 0};
  for (int i = deal.first(); i < deal.total; i = deal.next(i)) {
    rows_tile<T> const t(g, deal.shared, i);
    r.multiply<0, down>(sums, w, t.family.steps * shape::parts, t.family.columns - t.column);
    if constexpr (down) {
      gate_backward(sums, t.family, t.routed ? g.rows.row_weight : t.family.of.weight, g.activated,
                    w, t.row, t.routed ? t.row + 128 : g.rows.tokens, t.column, r);
    } else {
      out.at(&t.family.out, 0, t.row + w * 64, t.column);
      out.template put<0>(sums, false);
      if (t.family.columns - t.column > 128) out.template put<1>(sums, false);
    }
  }
  if (threadIdx.x % 128 == 0) store_wait_read<0>();
}

#endif

template <class T, bool down>
__global__ __launch_bounds__(rows_shape<down>::threads,
                             1) void backward_rows(__grid_constant__ rows_arguments<T> const g) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using shape = rows_shape<down>;
  std::uint32_t const data = shared_address(panels());
  std::uint32_t const staging = data + shape::buffers::size;
  rows_ring r(data, staging + 2 * shape::staged * panel_64);
  if (threadIdx.x == 0) {
    r.init(down ? 1 + shape::producers : 1);
    barrier_init_done();
  }
  __syncthreads();
  int const shared = g.shared_rows * g.shared.column_tiles;
  int const routed = g.routed.steps > 0 ? *g.rows.tile_count * g.routed.column_tiles : 0;
  // Tiles of the wider shared expert have a deeper K in up_backward.
  int const blocks = static_cast<int>(gridDim.x);
  int const head =
      g.routed.steps > 0 ? (blocks - shared % blocks) * g.shared.steps / g.routed.steps : 0;
  tile_deal const deal(blocks, static_cast<int>(blockIdx.x), shared, shared + routed, head);
  if (threadIdx.x < consumers) {
    take_registers<224>();
    consume_rows<T, down>(g, deal, r, staging + threadIdx.x / 128 * shape::staged * panel_64);
  } else {
    give_registers<56>();
    if (down || threadIdx.x == consumers) produce_rows<T, down>(g, deal, r);
  }
#endif
}

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
