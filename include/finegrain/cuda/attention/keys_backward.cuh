// Attention on the device, backward: dk and dv, by rows of keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "queries_backward.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

/// dk and dv of one key-value head's rows, some columns: sums over its query heads, in order, of
/// dv = p^T . dmixed and dk = ds^T . q. Scores are made transposed, so that a block's rows are
/// keys.
template <class T, class Heads>
__global__ void __launch_bounds__(backward_shape<T, Heads, by_groups<T>>::threads)
    keys_backward_kernel(__grid_constant__ backward_arguments<T> const a) {
  using shape = backward_shape<T, Heads, by_groups<T>>;
  constexpr int keys = shape::rows, queries = shape::step, threads = shape::threads;
  constexpr int columns = shape::columns, value_columns = shape::value_columns;
  extern __shared__ __align__(1024) unsigned char memory[];
  backward_tiles<T, Heads, shape> const tiles(shared_address(memory));
  auto const k = tiles.resident;
  auto const v = tiles.resident_values;
  auto q = [&](int stage) { return tiles.at(stage); };
  auto dmixed = [&](int stage) { return tiles.values_at(stage); };
  auto numbers = [&](int stage) {  // log_weight of a tile's rows, then delta
    return reinterpret_cast<float*>(memory + shape::tiles) + stage * 2 * queries;
  };
  milestone const step{shared_address(memory) + shape::tiles + shape::numbers};

  int const thread = threadIdx.x, lane = thread % 32, dim = a.shape.dim;
  int const value = Heads::values(a.shape);
  int const tokens = static_cast<int>(a.where.tokens), share = a.shape.query / a.shape.key_value;
  int const shared_head = blockIdx.x, slice = blockIdx.z * columns;
  int const value_slice = blockIdx.z * value_columns;
  int const j0 = static_cast<int>(blockIdx.y) * keys, j1 = min(j0 + keys, tokens);
  int const group_row = group_of_thread() * 64, warp_row = j0 + thread / 32 * 16;

  int const row[4] = {min(warp_row + lane / 4, tokens - 1),
                      min(warp_row + lane / 4 + 8, tokens - 1), j0, j1 - 1};
  int end[4];
  find_borders(a.where, row, end, end_row);
  visible const seen_by{{row[0], row[1]}, {end[0] - 1, end[1] - 1}};
  int const whole0 = min(j0 + group_row + 63, tokens - 1), whole1 = end[2];
  int const t_begin = j0 / queries * queries, last_head = (shared_head + 1) * share - 1;

  int loaded_head = shared_head * share, loaded = t_begin, stage = 0;
  auto load = [&](int to) {
    if (loaded_head <= last_head) {
      int const count = end[3] - loaded;
      q(to).template load<threads>(a.q.data + loaded * a.q.stride + loaded_head * dim, a.q.stride,
                                   count, dim, thread);
      dmixed(to).template load<threads>(
          a.dmixed.data + loaded * a.dmixed.stride + loaded_head * value, a.dmixed.stride, count,
          value, thread);
      if (thread < 2 * queries) {
        std::int64_t const t = loaded + thread % queries;
        bool const there = t < end[3];
        copy_4(shared_address(numbers(to) + thread),
               (thread < queries ? a.log_weight : a.delta) +
                   (there ? t * a.shape.query + loaded_head : 0),
               there);
      }
    }
    loaded += queries;
    if (loaded >= end[3]) {
      loaded = t_begin;
      ++loaded_head;
    }
    commit_async();
  };
  static_assert(2 * queries <= threads);
  if (thread == 0) step.create(threads);
  k.template load<threads>(a.k.data + j0 * a.k.stride + shared_head * dim, a.k.stride, j1 - j0, dim,
                           thread);
  v.template load<threads>(a.v.data + j0 * a.v.stride + shared_head * value, a.v.stride, j1 - j0,
                           value, thread);
  load(0);

  float const factor = Heads::scale(a.shape), scale = log2_e * factor;
  float dk[columns / 8][4] = {}, dv[value_columns / 8][4] = {}, s[queries / 8][4],
                     ds[queries / 8][4];
  left<T, queries> p, dp;
  auto begin = [&] {
    begin_scores<queries, T>(s, k, group_row, q(stage));
    begin_scores<queries, T>(ds, v, group_row, dmixed(stage));
  };
  for (int i = 1; i < shape::ahead; ++i) load(i);
  wait_copies<shape::ahead - 1>();
  __syncthreads();
  keep(dk);
  keep(dv);
  begin();
  for (int t0 = t_begin, head = shared_head * share, i = 0;; ++i) {
    wait_products<1, T>();
    keep(s);
    keep(dk);
    keep(dv);
    // Passed for the i'th time: the copies for step i + 1 are there, step i - 1 is done with.
    wait_copies<shape::ahead - 2>();
    step.pass();
    if (t0 < whole0 || t0 + queries > whole1) seen_by.mask(s, t0);
    float const* const log_weight = numbers(stage) + lane % 4 * 2;
    float const* const delta = log_weight + queries;
#pragma unroll
    for (int n = 0; n < queries / 8; ++n) {
      float2 const of_columns = *reinterpret_cast<float2 const*>(log_weight + n * 8);
#pragma unroll
      for (int r = 0; r < 4; r += 2) {
        s[n][r] = exp2_fast(s[n][r] * scale - log2_e * of_columns.x);
        s[n][r + 1] = exp2_fast(s[n][r + 1] * scale - log2_e * of_columns.y);
      }
    }
    pack<T, queries>(s, p);
    begin_mix<queries, value_columns, T>(dv, p, dmixed(stage), value_slice);
    wait_products<1, T>();
    keep(ds);
#pragma unroll
    for (int n = 0; n < queries / 8; ++n) {
      float2 const of_columns = *reinterpret_cast<float2 const*>(delta + n * 8);
#pragma unroll
      for (int r = 0; r < 4; r += 2) {
        ds[n][r] = s[n][r] * (ds[n][r] - of_columns.x);
        ds[n][r + 1] = s[n][r + 1] * (ds[n][r + 1] - of_columns.y);
      }
    }
    pack<T, queries>(ds, dp);
    wait_products<0, T>();
    keep(dv);
    t0 += queries;
    if (t0 >= end[3]) {
      if (head == last_head) break;
      t0 = t_begin;
      ++head;
    }
    step.wait(i);
    if constexpr (shape::stages > 2) load((stage == 0 ? shape::stages : stage) - 1);
    begin_mix<queries, columns, T>(dk, dp, q(stage), slice);
    if constexpr (shape::stages == 2) {
      wait_products<0, T>();
      __syncthreads();
      load(stage);
    }
    stage = stage + 1 == shape::stages ? 0 : stage + 1;
    begin();
  }
  begin_mix<queries, columns, T>(dk, dp, q(stage), slice);
  wait_products<0, T>();
  keep(dk);
  keep(dv);
  float const of_dk[2] = {factor, factor}, of_dv[2] = {1, 1};
  store_rows<columns>(dk, of_dk, warp_row, j1, shared_head * dim + slice, dim - slice, a.dk);
  store_rows<value_columns>(dv, of_dv, warp_row, j1, shared_head * value + value_slice,
                            value - value_slice, a.dv);
}

}  // namespace flash
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
