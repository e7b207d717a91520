// Products of few tokens: tiles of tokens times blocks of weight rows, one after the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../architectures.cuh"
#include "fused.cuh"
#include "ring.cuh"
#include "unit.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// What a kernel's block has of shared memory. Groups is a tile in groups of 8 tokens.
template <class W, int Groups, int Blocks, int Depth>
struct layout {
  static constexpr int sums = Groups * Blocks, set = warps * sums * 32, sets = 3;
  static constexpr int relay = warps * ring<W, Blocks, Depth>::warp_bytes / 16, parts = relay + 1;
  static constexpr int bytes(int split) { return 16 * (parts + (split > 1 ? sets * set : 0)); }
};

template <class T, class W, int Groups, int Blocks, int Depth, bool Up>
__device__ void multiply_units(expert_products<T> const& p, family_weights<W> const& routed,
                               family_weights<W> const& shared, cut const& how) {
  using at = layout<W, Groups, Blocks, Depth>;
  extern __shared__ uint4 memory[];
  auto* const parts = reinterpret_cast<float4*>(memory + at::parts);
  int const warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int const part = warp % how.split, stride = static_cast<int>(gridDim.x);
  int const first = static_cast<int>(blockIdx.x), stride_k = how.split * step;

  // Reads of weights run ahead of products by Depth steps, across units, and of tiles by a unit.
  ring<W, Blocks, Depth> weights(memory);
  int limit = how.shared_units, ahead = first, ahead_k = 0, ahead_columns = 0;
  if constexpr (!Up) limit += __ldcg(p.rows.tile_count) * how.routed_blocks.of;
  lane_weights<W, Up> from[Blocks];
  int4 tile = {};
  auto const look = [&](int index) {
    if (index < limit) tile = position(how, index).rows(p);
  };
  auto const find = [&] {
    if (ahead >= limit) return;
    position const there(how, ahead);
    unit<T, W, Blocks, Up> const u(p, how, there, tile);
#pragma unroll
    for (int m = 0; m < Blocks; ++m) from[m] = u.weights(p, there.shared ? shared : routed, m);
    ahead_columns = u.columns(p);
    ahead_k = part * step;
    look(ahead + stride);
  };
  // The shared expert needs nothing of the launch ahead; the others' rows are known behind it.
  bool waits = Up;
  auto const issue = [&] {
    if (waits && ahead >= limit) {
      waits = false;
      wait_for_launch_ahead();
      limit += __ldcg(p.rows.tile_count) * how.routed_blocks.of;
      look(ahead);
      find();
    }
    if (ahead < limit) {
      int const left = ahead_columns - ahead_k, at_k = from[0].before(ahead_k);
#pragma unroll
      for (int m = 0; m < Blocks; ++m)
        if (left >= step)
          weights.issue(m, from[m].low + at_k, from[m].high + at_k);
        else
          weights.issue(m, from[m].low + at_k, from[m].high + at_k, left);
      ahead_k += stride_k;
      if (ahead_k >= ahead_columns) ahead += stride, find();
    }
    weights.next();
  };
  look(first);
  find();
  for (int i = 0; i < Depth; ++i) issue();
  if constexpr (!Up) wait_for_launch_ahead();

  relay const others(memory + at::relay);
  // Adds the parts of the warps that share weight rows: a warp those of its own rows.
  auto const add = [&](unit<T, W, Blocks, Up> const& u, int turn) {
    float4 const* const set = parts + turn % at::sets * at::set + lane;
    for (int j = part; j < at::sums; j += how.split) {
      float4 total = {};
      for (int i = warp - part; i < warp - part + how.split; ++i) {
        float4 const v = set[(i * at::sums + j) * 32];
        total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
      }
      u.store(p, j / Groups, 8 * (j % Groups) + lane % 4 * 2, total);
    }
  };

  int turn = 0;
  position const none(how, 0);
  unit<T, W, Blocks, Up> last(p, how, none, int4{});
  for (int index = first; index < limit; index += stride, ++turn) {
    position const here(how, index);
    unit<T, W, Blocks, Up> const u(p, how, here, here.rows(p));
    int const columns = u.columns(p), groups = (u.tile.z + 7) / 8;
    auto const* const x = reinterpret_cast<uint4 const*>(Up ? p.x : u.family->hidden);
    std::uint32_t rows[Groups];
    uint4 b[Groups][2];
    auto const& w = here.shared ? shared : routed;
    float scale[Blocks][2][2];
    auto const load = [&](int k) {
#pragma unroll
      for (int j = 0; j < Groups; ++j)
        if (j == 0 || j < groups)
          load_row<W>(b[j], x + (rows[j] + static_cast<std::uint32_t>(k) / 8), columns - k);
      if constexpr (W::scale == scales::square || W::scale == scales::row) {
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
          if (k < columns && (W::scale == scales::square || k == part * step))
            u.weights(p, w, m).scales_of(w, k, scale[m][0]);
      }
    };
#pragma unroll
    for (int j = 0; j < Groups; ++j) rows[j] = u.input(p, 8 * j + lane / 4);
    load(part * step);
    float sum[Blocks][Groups][4] = {};
    for (int k = part * step; k < columns; k += stride_k) {
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
      load(k + stride_k);
      issue();
    }
    float4* const set = parts + turn % at::sets * at::set + lane;
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
      for (int j = 0; j < Groups; ++j) {
        float(&s)[4] = sum[m][j];
        if constexpr (W::scale == scales::row) {
          for (int i = 0; i < 4; ++i) s[i] *= scale[m][0][i / 2];
        }
        if (how.split == 1)
          u.store(p, m, 8 * j + lane % 4 * 2, {s[0], s[1], s[2], s[3]});
        else
          set[(warp * at::sums + m * Groups + j) * 32] = {s[0], s[1], s[2], s[3]};
      }
    if (how.split == 1) continue;
    // The others may still be at this unit, but not at the last one: that is added up now.
    if (turn > 0) others.wait(turn - 1), add(last, turn - 1);
    others.arrive();
    last = u;
  }
  if (how.split > 1 && turn > 0) others.wait(turn - 1), add(last, turn - 1);
}

/// Where Hopper's kernels take all other launches for weights as stored, `up` for up to fused_tokens
/// is left.
template <class W, int Groups, bool Up>
inline constexpr bool has_replacement = W::scale == scales::none && (!Up || Groups > 1);

template <class T, class W, int Groups, int Blocks, int Depth, bool Up, int PerSM>
__global__ void __launch_bounds__(threads, PerSM)
    decode_kernel([[maybe_unused]] __grid_constant__ expert_products<T> const p,
                  [[maybe_unused]] __grid_constant__ family_weights<W> const routed,
                  [[maybe_unused]] __grid_constant__ family_weights<W> const shared,
                  [[maybe_unused]] __grid_constant__ cut const how) {
  if constexpr (!replaced_here<T> || !has_replacement<W, Groups, Up>)
    multiply_units<T, W, Groups, Blocks, Depth, Up>(p, routed, shared, how);
}

/// split 0: so that a warp has 4 steps of a unit or more.
template <class T, class W, int Groups, int Blocks, int Depth, bool Up, int PerSM = 2>
void product(expert_products<T> const& p, family_weights<W> const& routed,
             family_weights<W> const& shared, int split, CUstream_st* stream, char const* name) {
  using space = layout<W, Groups, Blocks, Depth>;
  int const F = p.routed.width, SF = p.shared.width, T_ = p.rows.tokens;
  int const columns = Up ? p.hidden : SF > 0 ? at_most(F, SF) : F;
  machine const on;
  if (split == 0)
    for (split = Groups == 1                ? 8
                 : W::scale != scales::none ? 4
                                            : 2;
         split > 1 && columns < 4 * step * split;)
      split /= 2;
  while (split > 1 && (columns <= (split - 1) * step || space::bytes(split) > on.shared_bytes))
    split /= 2;
  int const outputs_of = warps / split * Blocks * outputs<Up>;
  auto const blocks = [&](int width) { return ceil_div(width, outputs_of); };
  cut how{split, 0, {}, divisor(blocks(Up ? F : p.hidden))};
  if (SF > 0) {
    how.shared_blocks = divisor(blocks(Up ? SF : p.hidden));
    how.shared_units = ceil_div(T_, p.rows.tile) * how.shared_blocks.of;
  }
  constexpr auto kernel = &decode_kernel<T, W, Groups, Blocks, Depth, Up, PerSM>;
  if constexpr (has_replacement<W, Groups, Up>) check_code<kernel>(name);
  launch(kernel, threads, how.shared_units + p.rows.max_tiles() * how.routed_blocks.of,
         space::bytes(split), on, stream, name, p, routed, shared, how);
}
template <bool Up, class T, class W>
void product(expert_products<T> const& p, family_weights<W> const& routed,
             family_weights<W> const& shared, CUstream_st* stream, char const* name) {
  constexpr bool coded =
      W::scale != scales::none;  // half of a stage's bytes, and more to do for each
  if (p.rows.tokens == 0) return;
  switch (p.rows.tile) {
    case 8:
      return product < T, W, 1,
             !coded           ? 1
             : W::pieces == 1 ? 4
                              : 2,
             coded ? 4 : 5, Up > (p, routed, shared, 0, stream, name);
    case 16: return product < T, W, 2, 2, coded ? 4 : 2, Up > (p, routed, shared, 0, stream, name);
    default: throw cuda_error("%s: no tiles of %d rows", name, p.rows.tile);
  }
}

}  // namespace decode

template <class T>
void decode_products<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  decode::product<true>(p, decode::weights_of(p.routed), decode::weights_of(p.shared), stream,
                        "decode_products::up_forward");
}
template <class T>
void decode_products<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  decode::product<false>(p, decode::weights_of(p.routed), decode::weights_of(p.shared), stream,
                         "decode_products::down_forward");
}
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
