// hopper_forward: persistent CTAs, one a multiprocessor, of three warpgroups: the first fills a
// ring of operands in shared memory, the two others multiply, 64 rows each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gated.cuh"
#include "../tile/number.cuh"
#include "forward.hpp"
#include "forward_loads.cuh"
#include "launch.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// sums (64, 256) = this warpgroup's 64 rows . the tile's 256 columns of weights.
template <bool Up, class T>
__device__ void multiply(float (&sums)[128], forward_ring& ring, int steps, int group) {
  std::uint32_t last = 0;
  for (int step = 0; step < steps; ++step) {
    wait(ring.full(), ring.parity);
    if constexpr (Up) fence_panels();  // gathers write as threads do
    auto const rows = k_major(ring.operands() + group * (forward_tile::a_bytes / 2));
    auto const weights = k_major(ring.operands() + forward_tile::a_bytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < forward_tile::depth / 16; ++k)
      wgmma<0, 0, T>(sums, rows + k * k_step_k_major, weights + k * k_step_k_major, step + k > 0);
    wgmma_commit();
    wgmma_wait<1>();
    if (step > 0) release(last);
    last = ring.empty();
    ring.next();
  }
  wgmma_wait<0>();
  release(last);
}

/// act(z) up for four columns of a row. The four share a reciprocal: of all, and a factor below 2^32
/// each. (Of one row, so that no token's bits depend on which one is its neighbour.)
template <class T>
__device__ void gated(float const (&z)[4], float const (&up)[4], float linear, float cubic,
                      std::uint32_t& low, std::uint32_t& high) {
  float grown[4], inverse;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm("ex2.approx.ftz.f32 %0, %1;"
        : "=f"(grown[i])
        : "f"(fminf(z[i] * (linear + cubic * (z[i] * z[i])), 31)));
    grown[i] += 1;
  }
  float const first = grown[0] * grown[1], second = grown[2] * grown[3];
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(first * second));
  float const of_first = inverse * second, of_second = inverse * first;
  low = pack<T>(z[0] * up[0] * (of_first * grown[1]), z[1] * up[1] * (of_first * grown[0]));
  high = pack<T>(z[2] * up[2] * (of_second * grown[3]), z[3] * up[3] * (of_second * grown[2]));
}

/// A warp's 16 rows by 128 columns to memory through its two panels: fill(panel, words) gives those
/// 32 numbers of a thread's that are in a panel's columns.
template <class F>
__device__ void store_panels(std::uint32_t panels, int lane, CUtensorMap const* map, int row,
                             int middle, int column, F fill) {
  if (lane == 0) store_wait_read<0>();
  __syncwarp();
#pragma unroll
  for (int p = 0; p < 2; ++p) {
    std::uint32_t words[16];
    fill(p, words);
#pragma unroll
    for (int i = 0; i < 16; i += 4)  // 16 columns
      store_matrices(
          panels + p * forward_tile::panel_bytes + swizzled(lane % 16, i / 2 + lane / 16), words[i],
          words[i + 1], words[i + 2], words[i + 3]);
  }
  fence_panels();
  __syncwarp();
  if (lane != 0) return;
#pragma unroll
  for (int p = 0; p < 2; ++p)
    store(map, row, middle, column + 64 * p, panels + p * forward_tile::panel_bytes);
  store_commit();
}

template <bool Up, class T>
__device__ void consume(forward_arguments<T> const& a, forward_ring ring, int unit, int units,
                        int stride, int routed_tiles) {
  using tile = forward_tile;
  int const group = threadIdx.x / 128 - 1, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  std::uint32_t const panels =
      ring.base + tile::panels_at + (group * 4 + warp) * 2 * tile::panel_bytes;
  float sums[128];
  forward_work next{};
  if (unit < units) next = find_work(a, unit, routed_tiles);
  for (; unit < units; unit += stride) {
    auto const w = next;
    if (unit + stride < units) next = find_work(a, unit + stride, routed_tiles);
    bool const live = w.count > group * 64;  // else 64 pads: zeros
    // Pads are stored too; rows behind the last token and columns behind F or D are clipped.
    int const row = w.first + group * 64 + warp * 16;
    int const column = w.column * (Up ? tile::half : 2 * tile::half);
    auto const out = [&](CUtensorMap const& map, int middle, int from, auto fill) {
      store_panels(panels, lane, &map, row, middle, column + from, fill);
    };
    auto const plain = [&](CUtensorMap const& map, int middle, int from, int half) {
      out(map, middle, from, [&](int p, std::uint32_t(&words)[16]) {
        float const* const some = sums + 64 * half + 32 * p;
#pragma unroll
        for (int i = 0; i < 16; ++i) words[i] = pack<T>(some[2 * i], some[2 * i + 1]);
      });
    };
    if (!live) {
      for (int step = 0; step < w.side->steps; ++step, ring.next()) {
        wait(ring.full(), ring.parity);
        release(ring.empty());
      }
      auto const zero = [](int, std::uint32_t(&words)[16]) {
#pragma unroll
        for (auto& word : words) word = 0;
      };
      for (int half = 0; half < 2; ++half) {
        if (!Up || half == 0) out(w.side->out, 0, 128 * half, zero);
        if (Up && w.side->save_z) out(w.side->z, half, 0, zero);
      }
      continue;
    }
    multiply<Up, T>(sums, ring, w.side->steps, group);
    if constexpr (Up) {
      if (w.side->save_z) {
        plain(w.side->z, 0, 0, 0);
        plain(w.side->z, 1, 0, 1);
      }
      if (a.limit > 0) bring_within<64>(a.limit, sums, sums + 64);
      out(w.side->out, 0, 0, [&](int p, std::uint32_t(&words)[16]) {
        float const *const z = sums + 32 * p, *const up = z + 64;
#pragma unroll
        for (int i = 0; i < 16; i += 4)  // 16 columns
#pragma unroll
          for (int row = i; row < i + 2; ++row) {
            float const *const g = z + 2 * row, *const u = up + 2 * row;
            gated<T>({g[0], g[1], g[4], g[5]}, {u[0], u[1], u[4], u[5]}, a.linear, a.cubic,
                     words[row], words[row + 2]);
          }
      });
    } else {
      plain(w.side->out, 0, 0, 0);
      plain(w.side->out, 0, 128, 1);
    }
  }
  if (lane == 0) store_wait_read<0>();
}

#endif

template <class T, bool Up>
__global__ void __launch_bounds__(forward_tile::threads, 1)
    forward_kernel([[maybe_unused]] __grid_constant__ forward_arguments<T> const a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using tile = forward_tile;
  forward_ring const ring{shared_address(panels())};
  if (threadIdx.x == 0) {
    for (forward_ring at = ring; at.parity == 0; at.next()) {
      barrier_init(at.full(), Up ? 128 + 1 : 1);  // gathering threads, and the one that expects
      barrier_init(at.empty(), 2 * 8);            // both CTAs' warps
    }
    barrier_init_done();
  }
  __syncwarp();  // a warp must come to the cluster's barrier as one
  cluster_sync();

  int const routed_tiles = a.tile_count ? *a.tile_count : 0;
  int const units =
      (a.shared_tiles + 1) / 2 * a.shared.columns + (routed_tiles + 1) / 2 * a.routed.columns;
  int const unit = blockIdx.x / 2, stride = gridDim.x / 2;
  if (threadIdx.x < 128) {
    give_registers<72>();
    if constexpr (Up)
      gather_all(a, ring, unit, units, stride, routed_tiles);
    else if (threadIdx.x == 0)
      load_all(a, ring, unit, units, stride, routed_tiles);
    __syncwarp();
  } else {
    take_registers<216>();
    consume<Up>(a, ring, unit, units, stride, routed_tiles);
    __syncwarp();
  }
  cluster_sync();  // the other CTA may still arrive here
#endif
}

/// out (rows, width) of one family = in (rows, K) . weights (experts, width, K)^T.
template <bool Up, class T>
void describe_side(forward_side& s, expert_family<T> const& f, T const* in, std::int64_t rows,
                   int experts, int D) {
  using tile = forward_tile;
  int const K = Up ? D : f.width, width = Up ? f.width : D;
  int const tile_columns = (Up ? 1 : 2) * tile::half;
  s.columns = ceil_div(width, tile_columns);
  s.steps = ceil_div(K, tile::depth);
  auto const weights = [&](T const* data) {
    return map_of({data, K, width, experts, K, std::int64_t{width} * K, tile::half, 1});
  };
  s.weights[0] = weights(Up ? f.gate : f.down);
  s.weights[1] = Up ? weights(f.up) : s.weights[0];
  if (in) s.in = map_of({in, K, 1, rows, K, K, 1, tile::rows});
  s.out = map_of({Up ? f.hidden : f.out, width, 1, rows, width, width, 1, 16});
  s.save_z = Up && f.z;
  if (s.save_z) s.z = map_of({f.z, width, 2, rows, width, 2 * std::int64_t{width}, 1, 16});
}

template <bool Up, class T>
void launch_forward(expert_products<T> const& p, CUstream_st* stream) {
  using tile = forward_tile;
  forward_arguments<T> a{};
  std::int64_t units = 0;
  if (p.shared.width > 0 && p.rows.tokens > 0) {
    describe_side<Up>(a.shared, p.shared, Up ? p.x : p.shared.hidden, p.rows.tokens, 1, p.hidden);
    a.shared_tiles = ceil_div(p.rows.tokens, tile::rows);
    units += std::int64_t{a.shared_tiles} * a.shared.columns;
  }
  if (p.routed.width > 0 && p.rows.max_tiles() > 0) {
    if (p.rows.tile != tile::rows)
      throw invalid_argument("tiles of %d rows, and these products have %d", p.rows.tile,
                             tile::rows);
    describe_side<Up>(a.routed, p.routed, Up ? nullptr : p.routed.hidden, p.rows.max_rows(),
                      p.rows.experts, p.hidden);
    a.tiles = p.rows.tiles;
    a.tile_count = p.rows.tile_count;
    a.row_token = p.rows.row_token;
    units += p.rows.max_tiles() * a.routed.columns;
  }
  if (units == 0) return;
  a.tokens = p.rows.tokens;
  a.width = p.hidden;
  a.x = p.x;
  gate_function const act(p.act);
  a.linear = act.linear;
  a.cubic = act.cubic;
  a.limit = act.limit;

  launch_clusters<tile>(forward_kernel<T, Up>, a, units, stream,
                        Up ? "up_forward" : "down_forward");
}

}  // namespace device::hopper

namespace device {

template <class T>
bool hopper_forward<T>::available() {
  return hopper::can_run<&hopper::forward_kernel<T, true>>();
}
template <class T>
void hopper_forward<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_forward<true>(p, stream);
}
template <class T>
void hopper_forward<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_forward<false>(p, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
