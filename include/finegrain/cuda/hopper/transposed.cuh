// hopper_transposed: persistent CTAs of three warpgroups, as hopper_forward's, that multiply weights
// by rows: what leaves is transposed on its way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "forward.cuh"
#include "transposed.hpp"
#include "transposed_loads.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// sums (64, Rows) = this warpgroup's 64 rows of weights . the piece's rows.
template <int Rows, class T>
__device__ void multiply_piece(float (&all)[transposed_tile::most / 2], transposed_ring& ring,
                               int steps, int group) {
  using tile = transposed_tile;
  auto& sums = reinterpret_cast<float(&)[Rows / 2]>(all);
  bool const releases = threadIdx.x % 32 == 0;
  std::uint32_t last = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait(ring.full(), ring.parity);
    auto const weights = k_major(ring.weights() + group * (tile::weight_bytes / 2));
    auto const rows = k_major(ring.rows());
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < tile::depth / 16; ++k)
      wgmma<0, 0, T>(sums, weights + k * k_step_k_major, rows + k * k_step_k_major, step + k > 0);
    wgmma_commit();
    wgmma_wait<1>();
    if (step > 0 && releases) arrive(last);
    last = ring.empty();
    ring.next();
  }
  wgmma_wait<0>();
  if (releases) arrive(last);
}
template <class T>
__device__ void multiply_piece(float (&sums)[transposed_tile::most / 2], transposed_ring& ring,
                               int steps, int group, int rows) {
  switch (rows / transposed_tile::step) {
    case 1: return multiply_piece<32, T>(sums, ring, steps, group);
    case 2: return multiply_piece<64, T>(sums, ring, steps, group);
    case 3: return multiply_piece<96, T>(sums, ring, steps, group);
    case 4: return multiply_piece<128, T>(sums, ring, steps, group);
    case 5: return multiply_piece<160, T>(sums, ring, steps, group);
    case 6: return multiply_piece<192, T>(sums, ring, steps, group);
    default: return multiply_piece<224, T>(sums, ring, steps, group);
  }
}

/// A warpgroup's way out: 32 rows at a time of its 64 columns, in two panels that take turns.
struct transposed_store {
  std::uint32_t panels;
  int turn = 0;

  /// write(panel) is every warp's part.
  template <class F>
  __device__ void put(CUtensorMap const* map, int row, int column, int group, F write) {
    bool const leads = threadIdx.x % 128 == 0;
    std::uint32_t const panel = panels + (turn++ % 2) * transposed_tile::panel_bytes;
    if (leads) store_wait_read<1>();
    warpgroup_sync(group);
    write(panel);
    fence_panels();
    warpgroup_sync(group);
    if (!leads) return;
    store(map, row, 0, column, panel);
    store_commit();
  }
};

template <class T>
__device__ void consume_pieces(transposed_list const& list, transposed_ring ring) {
  using tile = transposed_tile;
  int const thread = static_cast<int>(threadIdx.x), group = thread / 128 - 1;
  int const warp = thread % 128 / 32, lane = thread % 32;
  transposed_store to{ring.base + tile::panels_at +
                      static_cast<std::uint32_t>(group) * 2 * tile::panel_bytes};
  int const stride = static_cast<int>(gridDim.x);
  transposed_work next{};
  int unit = static_cast<int>(blockIdx.x);
  if (unit < list.units) next = list[unit];
  for (; unit < list.units; unit += stride) {
    auto const w = next;
    if (unit + stride < list.units) next = list[unit + stride];
    float sums[tile::most / 2];
    multiply_piece<T>(sums, ring, w.steps, group, w.rows());

    // Columns behind D, and rows behind the last token, are clipped.
    int const column = w.column * tile::weights + group * 64;
#pragma unroll
    for (int i = 0; i < tile::most / tile::step; ++i) {
      if (tile::step * i >= w.rows()) break;
      to.put(&w.side->out, w.first + tile::step * i, column, group, [&](std::uint32_t panel) {
        float const* const s = sums + 16 * i;
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // 8 of a warp's 16 columns, by 4 times 8 rows
          float const* const h = s + 2 * half;
          store_matrices_transposed(panel + swizzled(lane, 2 * warp + half), pack<T>(h[0], h[1]),
                                    pack<T>(h[4], h[5]), pack<T>(h[8], h[9]),
                                    pack<T>(h[12], h[13]));
        }
      });
    }
  }
  if (thread % 128 == 0) store_wait_read<0>();
}

#endif

template <class T>
__global__ void __launch_bounds__(transposed_tile::threads, 1)
    transposed_kernel([[maybe_unused]] __grid_constant__ transposed_arguments const a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using tile = transposed_tile;
  transposed_ring const ring{shared_address(panels()), a.stages, a.stage_bytes};
  if (threadIdx.x == 0) {
    for (transposed_ring at = ring; at.parity == 0; at.next()) {
      barrier_init(at.full(), 1);
      barrier_init(at.empty(), 8);  // warps
    }
    barrier_init_done();
  }
  int* const table = reinterpret_cast<int*>(panels() + tile::table_at);
  count_pieces(a, table);
  transposed_list const list(a, table);
  if (threadIdx.x < 128) {
    give_registers<72>();
    if (threadIdx.x == 0) load_pieces(list, ring);
  } else {
    take_registers<216>();
    consume_pieces<T>(list, ring);
  }
#endif
}

template <class T>
transposed_side describe_transposed(expert_family<T> const& f, std::int64_t rows, int experts,
                                    int D) {
  using tile = transposed_tile;
  int const F = f.width;
  return {map_of({f.down, F, D, experts, F, std::int64_t{D} * F, tile::weights, 1}),
          map_of({f.hidden, F, 1, rows, F, F, 1, tile::step}),
          map_of({f.out, D, 1, rows, D, D, 1, tile::step})};
}

/// Rows of a piece at most: what nearly all experts have, if tokens choose evenly.
inline int piece_span(row_map const& rows) {
  using tile = transposed_tile;
  double const average =
      rows.experts > 0 ? double(rows.tokens) * rows.slots / rows.experts : double(tile::most);
  double const most = average + 3 * std::sqrt(average);
  int const wanted = ceil_div(static_cast<int>(at_most(most, 1e6)), tile::step) * tile::step;
  return at_most(at_least(wanted, 64), tile::most);
}

template <class T>
void launch_transposed(expert_products<T> const& p, CUstream_st* stream) {
  using tile = transposed_tile;
  transposed_arguments a{};
  a.columns = ceil_div(p.hidden, tile::weights);
  a.span = piece_span(p.rows);
  std::int64_t units = 0;
  if (p.shared.width > 0 && p.rows.tokens > 0) {
    a.shared = describe_transposed(p.shared, p.rows.tokens, 1, p.hidden);
    a.shared_steps = ceil_div(p.shared.width, tile::depth);
    a.shared_rows = p.rows.tokens;
    units += std::int64_t{ceil_div(a.shared_rows, a.span)} * a.columns;
  }
  if (p.routed.width > 0 && p.rows.max_tiles() > 0) {
    if (p.rows.tile % tile::step != 0)
      throw invalid_argument("tiles of %d rows, and these products read %d", p.rows.tile,
                             tile::step);
    a.routed = describe_transposed(p.routed, p.rows.max_rows(), p.rows.experts, p.hidden);
    a.routed_steps = ceil_div(p.routed.width, tile::depth);
    a.experts = p.rows.experts;
    a.counts = p.rows.counts, a.offsets = p.rows.offsets;
    units += p.rows.max_tiles() * a.columns;
  }
  if (units == 0) return;
  a.stage_bytes = tile::weight_bytes + a.span * tile::row_bytes;
  a.stages = at_most(tile::ring_bytes / a.stage_bytes, tile::most_stages);

  auto const kernel = &transposed_kernel<T>;
  int const bytes = tile::shared_bytes(a.experts);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory of hopper_transposed");
  kernel<<<static_cast<unsigned>(at_most<std::int64_t>(units, multiprocessors())), tile::threads,
           bytes, stream>>>(a);
  check_launch("down_forward");
}

}  // namespace device::hopper

namespace device {

template <class T>
void hopper_transposed<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_transposed(p, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
