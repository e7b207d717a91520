// few_rows: weights stream through a ring in shared memory past a few tokens. A warpgroup fills the
// ring, two multiply: weights are wgmma's left operand, 256 rows of them, tokens the right one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gated.cuh"
#include "../overlap.cuh"
#include "../tile/block_place.hpp"
#include "../tile/number.cuh"
#include "../tile/wgmma.cuh"
#include "few_rows.hpp"
#include "launch.cuh"
#include "tile_ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

/// A unit of work is a tile of N tokens times 256 weight rows: 256 of down's outputs; or 128 of the
/// gate's and the same 128 of up's, so that a thread holds both numbers of a hidden one.
template <int N>
struct few_tile {
  static constexpr int half = 128, depth = 64, threads = 384;
  static constexpr int panel_bytes = 64 * 128;  // 64 weight rows, 64 deep
  static constexpr int half_bytes = 2 * panel_bytes, token_bytes = N * 128;
  static constexpr int stage_bytes = 2 * half_bytes + token_bytes;
  static constexpr int stages = N == 64 ? 5 : 6;
  static constexpr int out_at = stages * stage_bytes;  // N tokens by 64, twice
  static constexpr int barriers_at = out_at + 2 * token_bytes;
  static constexpr int shared_bytes = barriers_at + 2 * stages * 8;
};

struct few_side {          // of one family
  CUtensorMap weights[2];  // (expert, row, K): gate and up; or down, twice
  CUtensorMap in, out;     // (rows, 1, K): hidden, or x, of the shared expert; (rows, 1, F or D)
  int blocks = 0;          // of weight rows, in units
  int steps = 0;           // of K, 64 each
};
template <class T>
struct few_arguments {
  few_side shared, routed;
  row_map rows;
  T const* x = nullptr;
  int hidden = 0, shared_tiles = 0;
  glu act = activation::swiglu;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct few_work {
  few_side const* side;
  int expert, first, block;
  bool shared;
};
/// The shared expert's units stand first; then those of `tiles` routed tiles. In up all tiles have a
/// block before the next one, so that units of less, at a width's end, come last. In down a tile's
/// blocks follow one another: weights are read from fewer places at a time.
template <bool Up, int N, class T>
__device__ few_work find_few(few_arguments<T> const& a, int unit, int tiles) {
  auto const part = [unit](int first, int blocks, int tiles) -> int2 {  // tile and block
    int const n = unit - first, q = n / (Up ? tiles : blocks);
    return Up ? int2{n - q * tiles, q} : int2{q, n - q * blocks};
  };
  int const shared_units = a.shared_tiles * a.shared.blocks;
  if (unit < shared_units) {
    auto const at = part(0, a.shared.blocks, a.shared_tiles);
    return {&a.shared, 0, at.x * N, at.y, true};
  }
  auto const at = part(shared_units, a.routed.blocks, tiles);
  int4 const tile = __ldcg(reinterpret_cast<int4 const*>(a.rows.tiles) + at.x);
  return {&a.routed, tile.x, tile.y, at.y, false};
}

template <int N>
using few_ring = tile_ring<few_tile<N>>;  // of weights, and behind them tokens
template <int N>
__device__ std::uint32_t tokens_in(few_ring<N> const& ring) {
  return ring.operands() + 2 * few_tile<N>::half_bytes;
}

/// Asks for a stage's weights. One thread.
template <bool Up, int N>
__device__ void load_weights(few_work const& w, few_ring<N> const& ring, int step, bool gathered) {
  using tile = few_tile<N>;
  int const row = w.block * (Up ? tile::half : 2 * tile::half), k = step * tile::depth;
  arrive_and_expect(ring.full(), 2 * tile::half_bytes + (gathered ? 0 : tile::token_bytes));
  load(ring.operands(), &w.side->weights[0], w.expert, row, k, ring.full());
  load(ring.operands() + tile::half_bytes, &w.side->weights[1], w.expert,
       row + (Up ? 0 : tile::half), k, ring.full());
}

/// down_forward's producer, one thread. Weights may be read at once, hidden behind the launch ahead.
template <int N, class T>
__device__ void stream_down(few_arguments<T> const& a, few_ring<N> ring, int tiles) {
  using tile = few_tile<N>;
  int const units = a.shared_tiles * a.shared.blocks + tiles * a.routed.blocks;
  int unit = blockIdx.x, step = 0, early = 0;
  few_work w{};
  auto const advance = [&] {
    if (++step < w.side->steps) return;
    step = 0;
    if ((unit += gridDim.x) < units) w = find_few<false, N>(a, unit, tiles);
  };
  auto const load_tokens = [&] {
    load(tokens_in<N>(ring), &w.side->in, w.first, 0, step * tile::depth, ring.full());
  };
  if (unit < units) w = find_few<false, N>(a, unit, tiles);
  few_ring<N> const begin = ring;
  for (; early < tile::stages && unit < units; ++early, ring.next(), advance())
    load_weights<false>(w, ring, step, false);
  wait_for_launch_ahead();
  ring = begin, unit = blockIdx.x, step = 0;
  if (unit < units) w = find_few<false, N>(a, unit, tiles);
  for (int i = 0; unit < units; ++i, ring.next(), advance()) {
    if (i >= early) {
      wait(ring.empty(), ring.parity ^ 1);
      load_weights<false>(w, ring, step, false);
    }
    load_tokens();
  }
}

/// up_forward's producer: 128 threads gather rows of x, 8 threads a row of 64 numbers, and thread 0
/// asks for the weights. The shared expert needs nothing of the launch ahead.
template <int N, class T>
__device__ void stream_up(few_arguments<T> const& a, few_ring<N> ring) {
  using tile = few_tile<N>;
  constexpr int passes = N < 16 ? 1 : N / 16;
  int const thread = threadIdx.x, row = thread / 8, chunk = thread % 8;
  std::uint32_t const at = swizzled(row, chunk);  // 16 rows on: 2048 bytes on
  int const shared_units = a.shared_tiles * a.shared.blocks;
  int unit = blockIdx.x;
  for (; unit < shared_units; unit += gridDim.x) {
    auto const w = find_few<true, N>(a, unit, 0);
    for (int step = 0; step < w.side->steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      if (thread == 0) {
        load_weights<true>(w, ring, step, false);
        load(tokens_in<N>(ring), &w.side->in, w.first, 0, step * tile::depth, ring.full());
      }
      gather_arrive(ring.full());
    }
  }
  wait_for_launch_ahead();
  int const tiles = __ldcg(a.rows.tile_count), units = shared_units + tiles * a.routed.blocks;
  struct {
    few_work work;
    int token[passes];
  } next{};  // a tile's tokens are read while the one before it is gathered
  auto const look_up = [&](int unit) {
    if (unit >= units) return;
    next.work = find_few<true, N>(a, unit, tiles);
#pragma unroll
    for (int i = 0; i < passes; ++i)
      next.token[i] = row < N ? __ldcg(a.rows.row_token + next.work.first + row + 16 * i) : -1;
  };
  look_up(unit);
  for (; unit < units; unit += gridDim.x) {
    auto const w = next.work;
    T const* from[passes];
    bool pad[passes];
#pragma unroll
    for (int i = 0; i < passes; ++i) {
      from[i] = a.x + static_cast<std::int64_t>(max(next.token[i], 0)) * a.hidden + chunk * 8;
      pad[i] = next.token[i] < 0;
    }
    look_up(unit + gridDim.x);
    int const steps = w.side->steps;
    for (int step = 0; step < steps; ++step, ring.next()) {
      wait(ring.empty(), ring.parity ^ 1);
      if (thread == 0) load_weights<true>(w, ring, step, true);
      bool const inside = step * tile::depth + chunk * 8 < a.hidden;
#pragma unroll
      for (int i = 0; i < passes; ++i) {
        if (row < N) gather_16(tokens_in<N>(ring) + at + 2048 * i, from[i], inside && !pad[i]);
        from[i] += tile::depth;
      }
      gather_arrive(ring.full());
    }
  }
}

/// 64 outputs of N tokens to memory, transposed on the way: a warpgroup's, by way of its panel.
template <int N, class F>
__device__ void store_outputs(std::uint32_t panel, CUtensorMap const* map, int row, int column,
                              int group, F pair) {
  int const thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  if (thread == 0) store_wait_read<0>();
  warpgroup_sync(group);
  if constexpr (N == 8) {
    std::uint32_t const at = panel + swizzled(lane % 8, warp * 2 + lane / 8 % 2);
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at),
                 "r"(pair(0)), "r"(pair(2))
                 : "memory");
  }
#pragma unroll
  for (int j = 0; j < N / 16; ++j) {  // 16 tokens
    int const row = 16 * j + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
    store_matrices_transposed(panel + swizzled(row, chunk), pair(8 * j), pair(8 * j + 2),
                              pair(8 * j + 4), pair(8 * j + 6));
  }
  fence_panels();
  warpgroup_sync(group);
  if (thread == 0) {
    store(map, row, 0, column, panel);
    store_commit();
  }
}

template <bool Up, int N, class T>
__device__ void multiply_few(few_arguments<T> const& a, few_ring<N> ring) {
  using tile = few_tile<N>;
  int const group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
  int const shared_units = a.shared_tiles * a.shared.blocks;
  gate_function const act(a.act);
  bool waits = Up;  // for the routed experts' rows
  int units = shared_units, tiles = 0;
  auto const know_tiles = [&] {
    tiles = __ldcg(a.rows.tile_count);
    units += tiles * a.routed.blocks;
  };
  if constexpr (!Up) know_tiles();
  std::uint32_t const panel = ring.base + tile::out_at + group * tile::token_bytes;
  for (int unit = blockIdx.x;; unit += gridDim.x) {
    if (waits && unit >= units) {
      wait_for_launch_ahead();
      know_tiles();
      waits = false;
    }
    if (unit >= units) break;
    auto const w = find_few<Up, N>(a, unit, tiles);
    int const steps = w.side->steps;
    float sums[2][N / 2];
    std::uint32_t last = 0;
    for (int step = 0; step < steps; ++step) {
      wait(ring.full(), ring.parity);
      if constexpr (Up) fence_panels();  // gathers write as threads do
      auto const rows = k_major(ring.operands() + group * tile::panel_bytes);
      auto const other = k_major(ring.operands() + tile::half_bytes + group * tile::panel_bytes);
      auto const tokens = k_major(tokens_in<N>(ring));
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < tile::depth / 16; ++k) {
        wgmma<0, 0, T>(sums[0], rows + k * k_step_k_major, tokens + k * k_step_k_major,
                       step + k > 0);
        wgmma<0, 0, T>(sums[1], other + k * k_step_k_major, tokens + k * k_step_k_major,
                       step + k > 0);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0 && lane == 0) arrive(last);
      last = ring.empty();
      ring.next();
    }
    wgmma_wait<0>();
    if (lane == 0) arrive(last);

    if constexpr (Up) {
      if (act.limited()) bring_within<N / 2>(act.limit, sums[0], sums[1]);
      store_outputs<N>(
          panel, &w.side->out, w.first, w.block * tile::half + group * 64, group, [&](int i) {
            return pack<T>(act(sums[0][i]) * sums[1][i], act(sums[0][i + 1]) * sums[1][i + 1]);
          });
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        store_outputs<N>(panel, &w.side->out, w.first, (w.block * 2 + h) * tile::half + group * 64,
                         group, [&](int i) { return pack<T>(sums[h][i], sums[h][i + 1]); });
    }
  }
  if (threadIdx.x % 128 == 0) store_wait_read<0>();
}

#endif

template <class T, int N, bool Up>
__global__ void __launch_bounds__(few_tile<N>::threads, 1)
    few_rows_kernel([[maybe_unused]] __grid_constant__ few_arguments<T> const a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  few_ring<N> const ring{shared_address(panels())};
  if (threadIdx.x == 0) {
    for (few_ring<N> at = ring; at.parity == 0; at.next()) {
      barrier_init(at.full(), Up ? 128 + 1 : 1);  // gathering threads, and the one that expects
      barrier_init(at.empty(), 8);                // warps that multiply
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x >= 128) return multiply_few<Up>(a, ring);
  if constexpr (Up) {
    stream_up(a, ring);
  } else {
    if (threadIdx.x > 0) return;
    stream_down(a, ring, __ldcg(a.rows.tile_count));
  }
#endif
}

/// Of `rows` rows and so many experts.
template <bool Up, int N, class T>
void describe_few(few_side& s, expert_family<T> const& f, T const* in, std::int64_t rows,
                  int experts, int D) {
  using tile = few_tile<N>;
  int const K = Up ? D : f.width, width = Up ? f.width : D;
  s.blocks = ceil_div(width, (Up ? 1 : 2) * tile::half);
  s.steps = ceil_div(K, tile::depth);
  auto const weights = [&](T const* data) {
    return map_of({data, K, width, experts, K, std::int64_t{width} * K, tile::half, 1});
  };
  s.weights[0] = weights(Up ? f.gate : f.down);
  s.weights[1] = Up ? weights(f.up) : s.weights[0];
  if (in) s.in = map_of({in, K, 1, rows, K, K, 1, N});
  s.out = map_of({Up ? f.hidden : f.out, width, 1, rows, width, width, 1, N});
}

template <bool Up, int N, class T>
void launch_few(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  using tile = few_tile<N>;
  few_arguments<T> a{};
  a.rows = p.rows;
  a.x = p.x;
  a.hidden = p.hidden;
  a.act = p.act;
  describe_few<Up, N>(a.routed, p.routed, Up ? nullptr : p.routed.hidden, p.rows.max_rows(),
                      p.rows.experts, p.hidden);
  if (p.shared.width > 0) {
    describe_few<Up, N>(a.shared, p.shared, Up ? p.x : p.shared.hidden, p.rows.tokens, 1, p.hidden);
    a.shared_tiles = ceil_div(p.rows.tokens, N);
  }
  std::int64_t const units =
      std::int64_t{a.shared_tiles} * a.shared.blocks + p.rows.max_tiles() * a.routed.blocks;
  auto const kernel = &few_rows_kernel<T, N, Up>;
  check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, tile::shared_bytes),
      name);
  launch_overlapping(kernel, dim3(unsigned(at_most<std::int64_t>(units, multiprocessors()))),
                     tile::threads, tile::shared_bytes, stream, name, a);
}
template <bool Up, class T>
void launch_few(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  if (p.rows.tokens == 0) return;
  switch (p.rows.tile) {
    case 8: return launch_few<Up, 8>(p, stream, name);
    case 16: return launch_few<Up, 16>(p, stream, name);
    case 32: return launch_few<Up, 32>(p, stream, name);
    case 64: return launch_few<Up, 64>(p, stream, name);
    default: throw cuda_error("%s: tiles of 8 to 64 rows, not %d", name, p.rows.tile);
  }
}

}  // namespace device::hopper

namespace device {

template <class T>
bool few_rows<T>::available() {
  return hopper::can_run<&hopper::few_rows_kernel<T, 64, true>>();
}
template <class T>
void few_rows<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_few<true>(p, stream, "few_rows::up_forward");
}
template <class T>
void few_rows<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_few<false>(p, stream, "few_rows::down_forward");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
