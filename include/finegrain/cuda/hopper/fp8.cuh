// fp8_products: persistent CTAs, one a multiprocessor, of three warpgroups: a thread of the first
// fills a ring of operands in shared memory, the two others multiply, 64 rows each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gated.cuh"
#include "fp8_epilogue.cuh"
#include "fp8_loads.cuh"
#include "fp8_rows.cuh"
#include "launch.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::fp8 {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ inline float load_float(std::uint32_t from) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(from) : "memory");
  return x;
}
__device__ inline float number(bf16 x) { return __uint_as_float(std::uint32_t{x.bits} << 16); }

/// The two warpgroups start products by turns, so that one's sums are added up while the tensor core
/// works for the other.
__device__ inline void take_turn(int group) {
  if (group == 0)
    asm volatile("bar.sync 2, 256;" ::: "memory");
  else
    asm volatile("bar.sync 3, 256;" ::: "memory");
}
__device__ inline void pass_turn(int group) {
  if (group == 0)
    asm volatile("bar.arrive 3, 256;" ::: "memory");
  else
    asm volatile("bar.arrive 2, 256;" ::: "memory");
}

/// A lane's scales of the two halves of weights, of step `first` + lane.
struct held_scales {
  float half[2];
};
template <bool Up>
__device__ held_scales hold_scales(work const& w, int first) {
  side const& s = *w.side;
  int const step = min(first + static_cast<int>(threadIdx.x) % 32, s.steps - 1);
  held_scales held;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    int const part = Up ? w.column : min(2 * w.column + h, s.parts - 1);
    held.half[h] = number(s.scales[h][(std::int64_t{w.expert} * s.parts + part) * s.steps + step]);
  }
  return held;
}

/// sums (64, 2 x 128) = this warpgroup's 64 rows . the tile's two halves of weights. The tensor core
/// sums 128 products, which are scaled and added up here, while it works for the other warpgroup.
/// All else is done in the time that a product takes, between its start and its end.
template <bool Up>
__device__ void multiply(float (&sums)[128], ring& ring, work const& w, held_scales held,
                         int group) {
  int const steps = w.side->steps;
  std::uint32_t const row = group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  // Of descriptors only the lower half changes.
  auto const first = k_major(ring.base + group * (tile::a_bytes / 2));
  auto const upper_half = first >> 32 << 32;
  auto const first_rows = static_cast<std::uint32_t>(first);
  auto const first_weights = static_cast<std::uint32_t>(k_major(ring.base + tile::a_bytes));
#pragma unroll
  for (float& sum : sums) sum = 0;
  wait(ring.full(), ring.parity);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    float products[64], of_rows[2] = {};
    std::uint32_t const empty = ring.empty();
    std::uint32_t const rows = first_rows + ring.stage * (tile::stage_bytes / 16);
    std::uint32_t const weights = first_weights + ring.stage * (tile::stage_bytes / 16);
    auto const start = [&](int h) {
      take_turn(group);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < tile::depth / 32; ++k)
        wgmma_e4m3(products, upper_half | (rows + k * k_step_k_major),
                   upper_half | (weights + h * (tile::half_bytes / 16) + k * k_step_k_major),
                   k > 0);
      wgmma_commit();
      pass_turn(group);
    };
    auto const add = [&](int h) {
      float const scale = __shfl_sync(~0u, held.half[h], step % 32);
      float const a = of_rows[0] * scale, b = of_rows[1] * scale;
      wgmma_wait<0>();
      if (h == 1) release(empty);
#pragma unroll
      for (int i = 0; i < 64; ++i) sums[64 * h + i] += products[i] * (i % 4 < 2 ? a : b);
    };
    start(0);
    of_rows[0] = load_float(scales_in(ring) + row * 4);
    of_rows[1] = load_float(scales_in(ring) + (row + 8) * 4);
    add(0);
    start(1);
    ring.next();
    if (step + 1 < steps) wait(ring.full(), ring.parity);
    add(1);
    if (step % 32 == 31) held = hold_scales<Up>(w, step + 1);
  }
}

template <bool Up>
__device__ void consume(arguments const& a, ring ring, int unit, int units, int stride,
                        int routed_tiles) {
  int const group = threadIdx.x / 128 - 1, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  std::uint32_t const panel =
      ring.base + tile::panels_at + (group * 4 + warp) * 2 * tile::panel_bytes;
  int panel_turn = 0;
  if (group == 1) pass_turn(group);  // the first turn is group 0's
  work next{};
  held_scales held{};
  if (unit < units) {
    next = find_work(a, unit, routed_tiles);
    held = hold_scales<Up>(next, 0);
  }
  for (; unit < units; unit += stride) {
    auto const w = next;
    side const& s = *w.side;
    if (unit + stride < units) next = find_work(a, unit + stride, routed_tiles);
    float sums[128];
    if (w.count > group * 64) {
      multiply<Up>(sums, ring, w, held, group);
    } else {  // 64 pads: zeros
      for (int step = 0; step < s.steps; ++step, ring.next()) {
        wait(ring.full(), ring.parity);
        for (int h = 0; h < 2; ++h) take_turn(group), pass_turn(group);
        release(ring.empty());
      }
#pragma unroll
      for (float& sum : sums) sum = 0;
    }
    if (unit + stride < units) held = hold_scales<Up>(next, 0);

    // Pads are stored too; rows behind the last token and columns behind F or D are clipped.
    int const row = w.first + group * 64 + warp * 16;
    if constexpr (Up) {
      std::uint32_t words[16];
      float scale[2];
      if (a.limit > 0) bring_within<64>(a.limit, sums, sums + 64);
      hidden_codes(sums, a.linear, a.cubic, scale, words);
      if (lane % 4 < 2)
        s.out_scales[w.column * s.out_rows + row + lane / 4 + lane % 4 * 8] =
            lane % 4 ? scale[1] : scale[0];
      store_panel(panel + panel_turn * tile::panel_bytes, lane, &s.out, row, w.column * tile::half,
                  words);
      panel_turn ^= 1;
    } else {
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        std::uint32_t words[16];
#pragma unroll
        for (int i = 0; i < 16; ++i)
          words[i] = pack<bf16>(sums[32 * p + 2 * i], sums[32 * p + 2 * i + 1]);
        store_panel(panel + p % 2 * tile::panel_bytes, lane, &s.out, row,
                    w.column * 2 * tile::half + 64 * p, words);
      }
    }
  }
  if (group == 0) take_turn(group);  // which was passed at last
  if (lane == 0) store_wait_read<0>();
}

#endif

template <bool Up>
__global__ void __launch_bounds__(tile::threads, 1)
    fp8_kernel([[maybe_unused]] __grid_constant__ arguments const a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  std::uint32_t base = shared_address(panels());
  asm volatile("" : "+r"(base));  // computed once
  fp8::ring const ring{base};
  if (threadIdx.x == 0) {
    for (fp8::ring at = ring; at.parity == 0; at.next()) {
      barrier_init(at.full(), 1);
      barrier_init(at.empty(), 2 * 8);  // both CTAs' warps
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
    give_registers<56>();
    if (threadIdx.x == 0) load_all<Up>(a, ring, unit, units, stride, routed_tiles);
    __syncwarp();
  } else {
    take_registers<224>();
    consume<Up>(a, ring, unit, units, stride, routed_tiles);
    __syncwarp();
  }
  cluster_sync();  // the other CTA may still arrive here
#endif
}

/// out (rows, width) of one family = in (rows, K) . weights (experts, width, K)^T.
template <bool Up, class T>
side side_of(expert_family<T> const& f, fp8_family const& c, std::int64_t rows, int experts,
             int D) {
  int const K = Up ? D : f.width, width = Up ? f.width : D;
  fp8_rows const& in = Up ? c.x : c.hidden;
  side s{};
  s.parts = ceil_div(width, tile::half);
  s.columns = Up ? s.parts : (s.parts + 1) / 2;
  s.steps = ceil_div(K, tile::depth);
  auto const weights = [&](std::uint8_t const* codes) {
    return map_of(
        {codes, K, width, experts, code_pitch(K), width * code_pitch(K), tile::half, 1, 1});
  };
  s.weights[0] = weights(Up ? c.weights.gate : c.weights.down);
  s.weights[1] = Up ? weights(c.weights.up) : s.weights[0];
  s.scales[0] = Up ? c.weights.gate_scales : c.weights.down_scales;
  s.scales[1] = Up ? c.weights.up_scales : s.scales[0];
  auto const codes = [rows](fp8_rows const& r, int columns, int box) {
    std::int64_t const pitch = fp8_rows::pitch(columns);
    return map_of({r.codes, columns, 1, rows, pitch, pitch, 1, box, 1});
  };
  s.in = codes(in, K, tile::rows);
  s.in_scales = in.scales;
  s.in_rows = in.rows;
  if constexpr (Up) {
    s.out = codes(c.hidden, width, 16);
    s.out_scales = c.hidden.scales;
    s.out_rows = c.hidden.rows;
  } else {
    s.out = map_of({f.out, width, 1, rows, width, width, 1, 16});
  }
  return s;
}

template <class T>
void check_tiles(expert_products<T> const& p) {
  if (p.routed.width > 0 && p.rows.max_tiles() > 0 && p.rows.tile != tile::rows)
    throw invalid_argument("tiles of %d rows, and these products have %d", p.rows.tile, tile::rows);
}

template <bool Up, class T>
void launch(expert_products<T> const& p, fp8_family const& routed, fp8_family const& shared,
            CUstream_st* stream) {
  check_tiles(p);
  arguments a{};
  std::int64_t units = 0;
  if (p.shared.width > 0 && p.rows.tokens > 0) {
    a.shared = side_of<Up>(p.shared, shared, p.rows.tokens, 1, p.hidden);
    a.shared_tiles = ceil_div(p.rows.tokens, tile::rows);
    units += std::int64_t{a.shared_tiles} * a.shared.columns;
  }
  if (p.routed.width > 0 && p.rows.max_tiles() > 0) {
    a.routed = side_of<Up>(p.routed, routed, p.rows.max_rows(), p.rows.experts, p.hidden);
    a.tiles = p.rows.tiles;
    a.tile_count = p.rows.tile_count;
    units += p.rows.max_tiles() * a.routed.columns;
  }
  if (units == 0) return;
  a.tokens = p.rows.tokens;
  gate_function const act(p.act);
  a.linear = act.linear;
  a.cubic = act.cubic;
  a.limit = act.limit;

  launch_clusters<tile>(fp8_kernel<Up>, a, units, stream,
                        Up ? "fp8 up_forward" : "fp8 down_forward");
}

}  // namespace device::hopper::fp8

namespace device {

template <class T>
bool fp8_products<T>::available() {
  return hopper::can_run<&hopper::fp8::fp8_kernel<true>>();
}
template <class T>
void fp8_products<T>::quantize(expert_products<T> const& p, fp8_family const& routed,
                               fp8_family const& shared, CUstream_st* stream) {
  hopper::fp8::check_tiles(p);
  hopper::fp8::launch_quantize(p, routed, shared, stream);
}
template <class T>
void fp8_products<T>::up_forward(expert_products<T> const& p, fp8_family const& routed,
                                 fp8_family const& shared, CUstream_st* stream) {
  hopper::fp8::launch<true>(p, routed, shared, stream);
}
template <class T>
void fp8_products<T>::down_forward(expert_products<T> const& p, fp8_family const& routed,
                                   fp8_family const& shared, CUstream_st* stream) {
  hopper::fp8::launch<false>(p, routed, shared, stream);
}

/// Of bf16 and format fp8; the others need nothing.
template <class T, format F>
struct fp8_products_code {};
template <class T>
requires std::is_same_v<T, bf16>
struct fp8_products_code<T, format::fp8>
    : code<&fp8_products<T>::available, &fp8_products<T>::quantize, &fp8_products<T>::up_forward,
           &fp8_products<T>::down_forward> {
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
