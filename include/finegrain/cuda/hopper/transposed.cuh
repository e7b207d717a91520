// hopper_transposed: persistent CTAs of three warpgroups, as hopper_forward's, that multiply weights
// by rows: what leaves is transposed on its way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>

#include "forward.cuh"
#include "transposed.hpp"
#include "transposed_loads.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// sums (64, Rows) = this warpgroup's 64 rows of weights . the piece's rows.
template <bool Up, int Rows, class T>
__device__ void multiply_piece(float (&all)[transposed_tile::most / 2], transposed_ring& ring,
                               int steps, int group) {
  using tile = transposed_tile;
  auto& sums = reinterpret_cast<float(&)[Rows / 2]>(all);
  bool const releases = threadIdx.x % 32 == 0;
  std::uint32_t last = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait(ring.full(), ring.parity);
    if constexpr (Up) fence_panels();  // gathers write as threads do
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
template <bool Up, class T>
__device__ void multiply_piece(float (&sums)[transposed_tile::most / 2], transposed_ring& ring,
                               int steps, int group, int rows) {
  switch (rows / transposed_tile::step) {
    case 1: return multiply_piece<Up, 32, T>(sums, ring, steps, group);
    case 2: return multiply_piece<Up, 64, T>(sums, ring, steps, group);
    case 3: return multiply_piece<Up, 96, T>(sums, ring, steps, group);
    case 4: return multiply_piece<Up, 128, T>(sums, ring, steps, group);
    case 5: return multiply_piece<Up, 160, T>(sums, ring, steps, group);
    case 6: return multiply_piece<Up, 192, T>(sums, ring, steps, group);
    default: return multiply_piece<Up, 224, T>(sums, ring, steps, group);
  }
}

/// A warpgroup's way out: 32 rows at a time of its 32 or 64 columns, in two panels that take turns.
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

template <bool Up, class T>
__device__ void consume_pieces(transposed_list<T> const& list, transposed_ring ring) {
  using tile = transposed_tile;
  auto const& a = list.a;
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
    multiply_piece<Up, T>(sums, ring, w.side->steps, group, w.rows());

    // Columns behind F or D, and rows behind the last token, are clipped.
    int const column = w.column * (Up ? 64 : 128) + group * (Up ? 32 : 64);
    // 32 rows of a thread's numbers: words[i] are two rows of column lane / 4, and, of down_forward,
    // words[i + 1] those of the column 8 on.
    auto const put = [&](int row, auto fill) {
      to.put(&w.side->out, w.first + row, column, group, [&](std::uint32_t panel) {
        constexpr int many = Up ? 1 : 2;
        std::uint32_t words[4 * many];
        fill(words);
#pragma unroll
        for (int i = 0; i < many; ++i) {
          // of up_forward, rows of 64 bytes: a warp's 8 columns are a chunk of 16
          std::uint32_t const at =
              Up ? lane * 64 + ((warp ^ (lane >> 1 & 3)) << 4) : swizzled(lane, 2 * warp + i);
          store_matrices_transposed(panel + at, words[i], words[many + i], words[2 * many + i],
                                    words[3 * many + i]);
        }
      });
    };
#pragma unroll
    for (int i = 0; i < tile::most / tile::step; ++i) {
      if (tile::step * i >= w.rows()) break;
      put(tile::step * i, [&](auto& words) {
        float const* const s = sums + 16 * i;
        if constexpr (Up) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float const* const t = s + 8 * n;
            bool const swap = w.side->up_first;
            gated<T>(
                {swap ? t[2] : t[0], swap ? t[3] : t[1], swap ? t[6] : t[4], swap ? t[7] : t[5]},
                {swap ? t[0] : t[2], swap ? t[1] : t[3], swap ? t[4] : t[6], swap ? t[5] : t[7]},
                a.linear, a.cubic, words[2 * n], words[2 * n + 1]);
          }
        } else {
#pragma unroll
          for (int n = 0; n < 8; ++n) words[n] = pack<T>(s[2 * n], s[2 * n + 1]);
        }
      });
    }
  }
  if (thread % 128 == 0) store_wait_read<0>();
}

#endif

template <class T, bool Up>
__global__ void __launch_bounds__(transposed_tile::threads, 1)
    transposed_kernel([[maybe_unused]] __grid_constant__ transposed_arguments<T> const a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using tile = transposed_tile;
  transposed_ring const ring{shared_address(panels()), a.stages, a.stage_bytes};
  if (threadIdx.x == 0) {
    for (transposed_ring at = ring; at.parity == 0; at.next()) {
      barrier_init(at.full(), Up ? 128 + 1 : 1);  // gathering threads, and the one that expects
      barrier_init(at.empty(), 8);                // warps
    }
    barrier_init_done();
  }
  int* const table = reinterpret_cast<int*>(panels() + tile::table_at);
  count_pieces(a, table);
  transposed_list<T> const list(a, table);
  if (threadIdx.x < 128) {
    give_registers<104>();
    if constexpr (Up)
      gather_pieces(list, ring);
    else if (threadIdx.x == 0)
      load_pieces(list, ring);
  } else {
    take_registers<200>();
    consume_pieces<Up>(list, ring);
  }
#endif
}

/// out (rows, width) of one family = in (rows, K) . weights (experts, width, K)^T.
template <bool Up, class T>
void describe_transposed(transposed_side& s, expert_family<T> const& f, std::int64_t rows,
                         int experts, int D) {
  using tile = transposed_tile;
  int const F = f.width, K = Up ? D : F, width = Up ? F : D;
  s.columns = tiles_of(width, Up ? tile::weights / 2 : tile::weights);
  s.steps = tiles_of(K, tile::depth);
  if constexpr (Up) {
    s.up_first = std::less<>{}(f.up, f.gate);
    s.weights = map_of_pairs(s.up_first ? f.up : f.gate, s.up_first ? f.gate : f.up, experts, F, D);
    s.out = map_of({f.hidden, F, 1, rows, F, F, 1, tile::step, 2, 64});
  } else {
    s.weights = map_of({f.down, F, D, experts, F, std::int64_t{D} * F, tile::weights, 1});
    s.in = map_of({f.hidden, F, 1, rows, F, F, 1, tile::step});
    s.out = map_of({f.out, D, 1, rows, D, D, 1, tile::step});
  }
}

/// Rows of a piece at most: what nearly all experts have, if tokens choose evenly.
inline int piece_span(row_map const& rows) {
  using tile = transposed_tile;
  double const average =
      rows.experts > 0 ? double(rows.tokens) * rows.slots / rows.experts : double(tile::most);
  double const most = average + 3 * std::sqrt(average);
  return std::clamp(tiles_of(static_cast<int>(std::min(most, 1e6)), tile::step) * tile::step, 64,
                    tile::most);
}

template <bool Up, class T>
void launch_transposed(expert_products<T> const& p, CUstream_st* stream) {
  using tile = transposed_tile;
  transposed_arguments<T> a{};
  a.span = piece_span(p.rows);
  std::int64_t units = 0;
  if (p.shared.width > 0 && p.rows.tokens > 0) {
    describe_transposed<Up>(a.shared, p.shared, p.rows.tokens, 1, p.hidden);
    a.shared_rows = p.rows.tokens;
    units += std::int64_t{tiles_of(a.shared_rows, a.span)} * a.shared.columns;
  }
  if (p.routed.width > 0 && p.rows.max_tiles() > 0) {
    if (p.rows.tile % tile::step != 0)
      throw invalid_argument("tiles of %d rows, and these products read %d", p.rows.tile,
                             tile::step);
    describe_transposed<Up>(a.routed, p.routed, p.rows.max_rows(), p.rows.experts, p.hidden);
    a.experts = p.rows.experts;
    a.counts = p.rows.counts, a.offsets = p.rows.offsets, a.row_token = p.rows.row_token;
    units += p.rows.max_tiles() * a.routed.columns;
  }
  if (units == 0) return;
  a.stage_bytes = tile::weight_bytes + a.span * tile::row_bytes;
  a.stages = std::min(tile::ring_bytes / a.stage_bytes, tile::most_stages);
  a.width = p.hidden;
  a.x = p.x;
  set_activation(a, p.act);

  auto const kernel = &transposed_kernel<T, Up>;
  int const bytes = tile::shared_bytes(a.experts);
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "the current device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "the number of multiprocessors");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory of hopper_transposed");
  kernel<<<static_cast<unsigned>(std::min<std::int64_t>(units, processors)), tile::threads, bytes,
           stream>>>(a);
  check_launch(Up ? "up_forward" : "down_forward");
}

}  // namespace device::hopper

namespace device {

template <class T>
bool hopper_transposed<T>::takes(expert_products<T> const& p) {
  return !p.routed.z && !p.shared.z && hopper_forward<T>::available();
}
template <class T>
void hopper_transposed<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_transposed<true>(p, stream);
}
template <class T>
void hopper_transposed<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  hopper::launch_transposed<false>(p, stream);
}

template <class T>
inline constexpr std::tuple hopper_transposed_code{&hopper_transposed<T>::takes,
                                                   &hopper_transposed<T>::up_forward,
                                                   &hopper_transposed<T>::down_forward};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
