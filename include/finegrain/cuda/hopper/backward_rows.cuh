// backward_rows: the products of backward whose rows are rows of experts, down_backward and
// up_backward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gated.cuh"
#include "../products.hpp"
#include "deal.hpp"
#include "ring.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device::hopper::backward {

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
  static constexpr int ahead = 3;  // steps
  using buffers = ring_shape<stages>;
  static constexpr int shared_bytes = buffers::size + 2 * staged * panel_64 + buffers::barriers;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <bool down>
using rows_ring = ring<rows_shape<down>::stages>;

/// The activations, told apart once a tile; `limited` is any of them with a limit.
enum class gates { silu, gelu, relu, limited };

/// Of two columns: dz of the gate and the up in place of z; hidden; and what they add to dot.
template <class T, gates kind>
__device__ std::uint32_t gate_pair(gate_function const& activated, float const* g, float weight,
                                   std::uint32_t& gate, std::uint32_t& up, float& dot) {
  float2 const z = unpack<T>(gate), right = unpack<T>(up);
  float left[2] = {z.x, z.y}, ups[2] = {right.x, right.y};
  float value[2], slope[2], hidden[2], dgate[2], dup[2];
  unsigned beyond = 0;
  if constexpr (kind == gates::limited) {
    beyond = bring_within<2>(activated.limit, left, ups);
    activated.at(left, value, slope);
  } else if constexpr (kind == gates::relu)
    activated.of_step(left, value, slope);
  else
    activated.of_curve<kind == gates::gelu>(left, value, slope);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float const weighted = weight * g[i], full = value[i] * ups[i];
    dot += g[i] * full;
    hidden[i] = weight * full;
    dgate[i] = weighted * ups[i] * slope[i];
    dup[i] = weighted * value[i];
  }
  if constexpr (kind == gates::limited) stop_beyond<2>(beyond, dgate, dup);
  gate = pack<T>(dgate[0], dgate[1]);
  up = pack<T>(dup[0], dup[1]);
  return pack<T>(hidden[0], hidden[1]);
}

/// From g = sums (64, 256) of warpgroup w of the tile at `row`: dz, hidden, dot. z comes through the
/// ring, 64 columns a stage, the gate's as A, the up's in B; dz takes its place, hidden stands behind
/// it, and both leave from there, 16 rows a warp. The sums are used up.
template <gates kind, class T>
__device__ void gate_backward(float (&sums)[128], rows_family<T> const& family,
                              float const* weights, gate_function const& activated, int w, int row,
                              int rows, int first_column, rows_ring<true>& r) {
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  row += w * 64 + warp * 16;
  int const last_column = min(first_column + 256, family.of.width);
  int constexpr some = kind == gates::limited ? 2 : 4;        // fewer numbers are held at once
  std::uint32_t const band = w * panel_64 + warp * 16 * 128;  // of a panel of 128 rows
  std::uint32_t const place = swizzled(lane % 16, 0);
  float weight[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    int const of = row + lane / 4 + 8 * h;
    weight[h] = weights && of < rows ? weights[of] : 1.f;
  }
  std::uint32_t last = 0;  // the stage that stores may still read
#pragma unroll 1
  for (int half = first_column; half < last_column; half += 128) {
    float dot[2] = {0, 0};
#pragma unroll
    for (int quarter = 0; quarter < 2; ++quarter) {
      int const column = half + 64 * quarter;
      if (column >= last_column) break;
      std::uint32_t const gate = r.a() + band, up = r.b() + band, hidden = up + 2 * panel_64;
      std::uint32_t const at = (lane < 16 ? gate : up) + place;
      r.wait_filled();
#pragma unroll
      for (int j0 = 0; j0 < 8; j0 += some) {
        // 8 columns at a time: the gate's rows and those 8 on, the up's; many, that they overlap
        std::uint32_t z[some][4], out[some][2];
#pragma unroll
        for (int i = 0; i < some; ++i) load_matrices<false>(z[i], at ^ (j0 + i) << 4);
#pragma unroll
        for (int i = 0; i < some; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            out[i][h] = gate_pair<T, kind>(activated, sums + 32 * quarter + 4 * (j0 + i) + 2 * h,
                                           weight[h], z[i][h], z[i][2 + h], dot[h]);
        // In place, without __syncwarp: each lane stores what it made of all that it was given, so no
        // store has its operands before the warp has read.
#pragma unroll
        for (int i = 0; i < some; ++i) {
          store_matrices(at ^ (j0 + i) << 4, z[i][0], z[i][1], z[i][2], z[i][3]);
          store_two_matrices((hidden + place) ^ (j0 + i) << 4, out[i][0], out[i][1]);
        }
      }
      fence_panels();
      __syncwarp();
      if (lane == 0) {
        store(&family.dz, row, 0, column, gate);
        store(&family.dz, row, 1, column, up);
        store(&family.out, 0, row, column, hidden);
        store_commit();
        store_wait_read<1>();
      }
      __syncwarp();
      if (column > first_column) release(last);
      last = r.emptied();
      r.advance();
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      dot[h] += __shfl_xor_sync(~0u, dot[h], 1);
      dot[h] += __shfl_xor_sync(~0u, dot[h], 2);
      int const of = row + lane / 4 + 8 * h;
      if (family.of.dot && of < rows && lane % 4 == 0)
        family.of.dot[std::int64_t{of} * family.dot_parts + half / 128] = dot[h];
    }
#pragma unroll
    for (int i = 0; i < 64; ++i) sums[i] = sums[i + 64];
  }
  if (lane == 0) store_wait_read<0>();
  __syncwarp();
  release(last);
}

/// A unit of work is a tile of columns for a pair of neighbouring tiles of rows, one for each CTA of
/// a cluster. Where these are of one expert, each CTA loads half of B for both.
template <class T>
struct rows_tile {
  rows_family<T> const* family;
  bool routed;
  int expert, neighbour, row, count, column;  // neighbour: the other CTA's expert

  __device__ rows_tile(rows_arguments<T> const& g, int shared, int routed_tiles, int unit)
      : family(unit < shared ? &g.shared : &g.routed), routed(unit >= shared) {
    int const i = routed ? unit - shared : unit, rank = cluster_rank();
    int const columns = family->column_tiles, pair = i / columns;
    // The last column may be narrow: no cluster should get that one in each of its rounds.
    int const clusters = static_cast<int>(gridDim.x) / 2, rows = clusters / columns;
    int const turn = rows > 0 && clusters % columns == 0 ? pair / rows : 0;
    column = (i + turn) % columns * 256;
    if (routed) {  // an odd last tile is computed twice, to the same bits
      int const last = max(routed_tiles - 1, 0);  // there may be none, and no unit then
      row_tile const t = g.rows.tiles[min(pair * 2 + rank, last)];
      expert = t.expert, row = t.first, count = t.count;
      neighbour = g.rows.tiles[min(pair * 2 + 1 - rank, last)].expert;
    } else {
      expert = neighbour = 0, row = min(pair * 2 + rank, g.shared_rows - 1) * 128;
      count = min(g.rows.tokens - row, 128);
    }
  }
};

/// What a block does: its deal, of so many units.
struct rows_deal : tile_deal {
  int routed_tiles;
};

/// Panels of B, 64 columns each, of a step.
template <class T, class Ring>
__device__ void load_columns(rows_tile<T> const& t, int part, int k, int panels, Ring& r) {
  int const rank = cluster_rank();
  bool const together = t.expert == t.neighbour;
  int const some = together ? panels / 2 : panels;
  for (int n = together ? rank * some : 0, end = n + some; n < end; ++n) {
    std::uint32_t const to = r.b() + n * panel_64;
    if (together)
      load_for(3, to, &t.family->b[part], t.expert, k, t.column + n * 64, r.filled());
    else
      load(to, &t.family->b[part], t.expert, k, t.column + n * 64, r.filled());
  }
}

/// One thread asks for boxes. In down_backward all producers fetch A, rows of dy.
template <class T, bool down>
__device__ void produce_rows(rows_arguments<T> const& g, rows_deal const& deal, rows_ring<down> r) {
  using shape = rows_shape<down>;
  int const warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, chunk = lane % 8;
  int const first = warp * 32 + lane / 8;  // of this thread's rows of A: this and each fourth
  bool const leader = threadIdx.x == consumers;
  for (int i = deal.first(); i < deal.total; i = deal.next(i)) {
    rows_tile<T> const t(g, deal.shared, deal.routed_tiles, i);
    rows_family<T> const& f = *t.family;
    T const* from[8];
    unsigned pads = 0;
    if constexpr (down) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        int const row = t.row + first + 4 * j;
        int const token = t.routed ? g.rows.row_token[row] : row < g.rows.tokens ? row : -1;
        from[j] = g.dy + std::int64_t{max(token, 0)} * g.hidden + chunk * 8;
        pads |= static_cast<unsigned>(token < 0) << j;
      }
    }
    int const panels = f.columns - t.column > 128 ? 4 : 2, steps = f.steps;
    for (int part = 0; part < shape::parts; ++part)
      for (int step = 0; step < steps; ++step) {
        r.wait_emptied();
        if (!down || leader) {
          arrive_and_expect(r.filled(), panels * panel_64 + (down ? 0 : r.a_bytes));
          if (!down) load(r.a(), &f.a, t.row, part, step * 64, r.filled());
          load_columns(t, part, step * 64, panels, r);
          int const column = t.column + step / 4 * 64;  // of z, which all blocks want at one time
          if (down && step % 4 < 2 && step / 4 < 4 && column < f.columns)
            prefetch(&f.z, t.row, step % 4, column);
        }
        if constexpr (down) {
          __syncwarp();
          bool const inside = step * 64 + chunk * 8 < g.hidden;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            gather_16(r.a() + swizzled(first + 4 * j, chunk), from[j], inside && !(pads >> j & 1));
            from[j] += 64;
          }
          gather_arrive(r.filled());
        }
        r.advance();
      }
    int const last_column = min(t.column + 256, f.columns);
    for (int column = t.column; down && column < last_column; column += 64) {
      r.wait_emptied();
      if (leader) {
        arrive_and_expect(r.filled(), 4 * panel_64);
        load(r.a(), &f.z, t.row, 0, column, r.filled());
        load(r.b(), &f.z, t.row, 1, column, r.filled());
      }
      gather_arrive(r.filled());
      r.advance();
    }
  }
}

/// `w` is the consumer's half of the rows.
template <class T, bool down>
__device__ void consume_rows(rows_arguments<T> const& g, rows_deal const& deal, rows_ring<down> r,
                             std::uint32_t panels) {
  using shape = rows_shape<down>;
  int const w = threadIdx.x / 128;
  float sums[128];
  sums_store<T, false, shape::staged> out{panels, 0};
  // One half of the rows runs ahead, so that the other's products cover what it does with its sums.
  int signal = down && w == 0 ? shape::ahead : -1;
  int unit = deal.first();
  rows_tile<T> next(g, deal.shared, deal.routed_tiles, unit < deal.total ? unit : 0);
  if (down && w == 1 && unit < deal.total) wait_for_first();
  while (unit < deal.total) {
    auto const t = next;
    unit = deal.next(unit);
    auto const look_up = [&] {
      if (unit < deal.total) next = rows_tile<T>(g, deal.shared, deal.routed_tiles, unit);
    };
    rows_family<T> const& f = *t.family;
    if (t.count > w * 64) {
      r.template multiply<T, 0, down>(sums, w, f.steps * shape::parts, f.columns - t.column,
                                      signal);
      signal = -1;
    } else {  // pads
#pragma unroll
      for (float& sum : sums) sum = 0;
      r.pass(f.steps * shape::parts);
    }
    if constexpr (down) {
      look_up();
      auto const finish = [&](auto function) {
        function(sums, f, t.routed ? g.rows.row_weight : f.of.weight, g.activated, w, t.row,
                 t.routed ? t.row + 128 : g.rows.tokens, t.column, r);
      };
      if (g.activated.limited())
        finish([](auto&&... all) { gate_backward<gates::limited>(all...); });
      else if (g.activated.is_step())
        finish([](auto&&... all) { gate_backward<gates::relu>(all...); });
      else if (g.activated.cubic == 0)
        finish([](auto&&... all) { gate_backward<gates::silu>(all...); });
      else
        finish([](auto&&... all) { gate_backward<gates::gelu>(all...); });
    } else {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        if (n == 1) look_up();  // while the store reads the first panel
        if (t.column + n * 64 >= f.columns) break;
        out.put(sums, n, false, &f.out, 0, t.row + w * 64, t.column + n * 64);
      }
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
  rows_ring<down> r(data, staging + 2 * shape::staged * panel_64);
  if (threadIdx.x == 0) {
    r.init(down ? 1 + shape::producers : 1);
    barrier_init_done();
  }
  __syncwarp();  // a warp must come to the cluster's barrier as one
  cluster_sync();
  int const shared = (g.shared_rows + 1) / 2 * g.shared.column_tiles;
  int const routed_tiles = g.routed.steps > 0 ? *g.rows.tile_count : 0;
  int const routed = (routed_tiles + 1) / 2 * g.routed.column_tiles;
  // Units of the wider shared expert have a deeper K in up_backward.
  int const clusters = static_cast<int>(gridDim.x) / 2;
  int const head =
      g.routed.steps > 0 ? (clusters - shared % clusters) * g.shared.steps / g.routed.steps : 0;
  rows_deal const deal{{clusters, static_cast<int>(blockIdx.x) / 2, shared, shared + routed, head},
                       routed_tiles};
  if (threadIdx.x < consumers) {
    take_registers<224>();
    consume_rows<T, down>(g, deal, r, staging + threadIdx.x / 128 * shape::staged * panel_64);
  } else {
    give_registers<56>();
    if (down || threadIdx.x == consumers) produce_rows<T, down>(g, deal, r);
  }
  __syncwarp();
  cluster_sync();  // the other CTA may still arrive here
#endif
}

}  // namespace device::hopper::backward
}  // namespace finegrain::inline FINEGRAIN_ABI
