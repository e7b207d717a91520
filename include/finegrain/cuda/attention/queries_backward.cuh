// Attention on the device, backward: dq, by rows of queries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "forward.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

/// Shapes of both kernels: two resident tiles of `rows` rows, and two that pass by in stages of
/// `step` rows. A block of keys writes so many columns of their gradients. A stage is read in one
/// step and the beginning of the next: with more than 2, copies need not wait for that, and are
/// begun for `ahead` steps.
template <class T, class Heads, bool Hopper>
struct backward_shape {
  static constexpr int dim = Heads::dim;
  static constexpr int rows = (in_pairs<T> ? 128 : 64) / (dim > 128 ? 2 : 1), threads = 2 * rows;
  static constexpr int pairs = dim > 128 ? 16 : dim > 64 ? 32 : 64, single = dim > 128 ? 8 : 16;
  static constexpr int step = Hopper ? (dim > 128 ? 32 : 64) : in_pairs<T> ? pairs : single;
  static constexpr int split = dim > 192 ? 2 : 1;  // so that sums have the registers
  static constexpr int slices = in_pairs<T> || dim <= 64 ? split : 2 * split;
  static constexpr int columns = dim / slices, value_columns = Heads::value / slices;
  static constexpr int stages = Hopper ? 4 : 2, ahead = stages > 2 ? stages - 1 : 2;
  static constexpr int tiles =  // bytes
      (rows + stages * step) * (dim + Heads::value) * static_cast<int>(sizeof(T));
  static constexpr int numbers = 2 * stages * step * 4;  // bytes, log_weight and delta of rows
  static constexpr int bytes = tiles + numbers + 8;      // and a milestone
};

/// Their shared memory from `address` on: tiles that stay, of keys' size and of values', and stages of
/// two that pass by.
template <class T, class Heads, class Shape>
struct backward_tiles {
  using passing = tile<T, Shape::step, Heads::dim>;
  using passing_values = tile<T, Shape::step, Heads::value>;
  tile<T, Shape::rows, Heads::dim> resident;
  tile<T, Shape::rows, Heads::value> resident_values;

  __device__ explicit backward_tiles(std::uint32_t address)
      : resident{address}, resident_values{address + resident.bytes} {}
  __device__ passing at(int stage) const {
    return {resident_values.address + resident_values.bytes +
            static_cast<std::uint32_t>(stage * (passing::bytes + passing_values::bytes))};
  }
  __device__ passing_values values_at(int stage) const {
    return {at(stage).address + passing::bytes};
  }
};

template <class T>
struct backward_arguments {
  heads shape;
  places where;
  matrix<T const> q, k, v, mixed, dmixed;
  float const* log_weight;
  float* delta;
  matrix<T> dq, dk, dv;
};

/// The dot product of two rows, by 4 lanes.
template <class T>
__device__ float dot_by_4(T const* a, T const* b, int dim) {
  float sum = 0;
  for (int c = threadIdx.x % 4 * 8; c < dim; c += 32) {
    float x[8], y[8];
    unpack<T>(x, load_eight(a + c));
    unpack<T>(y, load_eight(b + c));
#pragma unroll
    for (int i = 0; i < 8; i += 2) sum += x[i] * y[i] + x[i + 1] * y[i + 1];
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  return sum + __shfl_xor_sync(~0u, sum, 2);
}

/// delta and dq of one query head's rows: with s = q . k^T, ds = p (dmixed . v^T - delta),
/// dq = ds . k. Blocks with most keys come first.
template <class T, class Heads>
__global__ void __launch_bounds__(backward_shape<T, Heads, by_groups<T>>::threads)
    queries_backward_kernel(__grid_constant__ backward_arguments<T> const a) {
  using shape = backward_shape<T, Heads, by_groups<T>>;
  constexpr int queries = shape::rows, keys = shape::step, threads = shape::threads;
  extern __shared__ __align__(1024) unsigned char memory[];
  backward_tiles<T, Heads, shape> const tiles(shared_address(memory));
  auto const q = tiles.resident;
  auto const dmixed = tiles.resident_values;
  auto k = [&](int stage) { return tiles.at(stage); };
  auto v = [&](int stage) { return tiles.values_at(stage); };
  milestone const step{shared_address(memory) + shape::tiles + shape::numbers};

  int const thread = threadIdx.x, lane = thread % 32, dim = a.shape.dim;
  int const value = Heads::values(a.shape);
  int const tokens = static_cast<int>(a.where.tokens);
  int const head = blockIdx.x, shared_head = head / (a.shape.query / a.shape.key_value);
  int const t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * queries;
  int const t1 = min(t0 + queries, tokens), group_row = group_of_thread() * 64;
  int const warp_row = t0 + thread / 32 * 16;

  int const row[4] = {min(warp_row + lane / 4, tokens - 1),
                      min(warp_row + lane / 4 + 8, tokens - 1), t0, t1 - 1};
  int first[4];
  find_borders(a.where, row, first, first_row);
  visible const sees{{first[0], first[1]}, {row[0], row[1]}};
  int const key0 = first[2] / keys * keys, whole0 = first[3], whole1 = t0 + group_row + 1;

  int loaded = key0, stage = 0;
  auto load = [&](int to) {
    if (loaded < t1) {
      k(to).template load<threads>(a.k.data + loaded * a.k.stride + shared_head * dim, a.k.stride,
                                   t1 - loaded, dim, thread);
      v(to).template load<threads>(a.v.data + loaded * a.v.stride + shared_head * value, a.v.stride,
                                   t1 - loaded, value, thread);
    }
    loaded += keys;
    commit_async();
  };
  if (thread == 0) step.create(threads);
  q.template load<threads>(a.q.data + t0 * a.q.stride + head * dim, a.q.stride, t1 - t0, dim,
                           thread);
  dmixed.template load<threads>(a.dmixed.data + t0 * a.dmixed.stride + head * value,
                                a.dmixed.stride, t1 - t0, value, thread);
  load(0);

  float const factor = Heads::scale(a.shape), scale = log2_e * factor;
  float log_weight[2], delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    std::int64_t const t = row[r], at = t * a.shape.query + head;
    log_weight[r] = log2_e * a.log_weight[at];
    delta[r] = dot_by_4(a.mixed.data + t * a.mixed.stride + head * value,
                        a.dmixed.data + t * a.dmixed.stride + head * value, value);
    if (lane % 4 == 0 && warp_row + lane / 4 + 8 * r < t1) a.delta[at] = delta[r];
  }

  float sums[Heads::dim / 8][4] = {}, s[keys / 8][4], ds[keys / 8][4];
  left<T, keys> p;
  auto begin = [&] {
    begin_scores<keys, T>(s, q, group_row, k(stage));
    begin_scores<keys, T>(ds, dmixed, group_row, v(stage));
  };
  for (int i = 1; i < shape::ahead; ++i) load(i);
  wait_copies<shape::ahead - 1>();
  __syncthreads();
  keep(sums);
  begin();
  for (int key = key0, i = 0;; key += keys, ++i) {
    wait_products<1, T>();
    keep(s);
    keep(sums);
    // Passed for the i'th time: the copies for step i + 1 are there, step i - 1 is done with.
    wait_copies<shape::ahead - 2>();
    step.pass();
    auto weigh = [&](auto sees_it) {
#pragma unroll
      for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float const weight = exp2_fast(s[n][j] * scale - log_weight[j / 2]);
          s[n][j] = sees_it(n, j) ? weight : 0;
        }
    };
    // In branches: so the compiler does not wait for the other product first, and weigh then.
    if (key < whole0 || key + keys > whole1)
      weigh([&](int n, int j) { return sees.at(n, j, key); });
    else
      weigh([](int, int) { return true; });
    keep(s);
    wait_products<0, T>();
    keep(ds);
#pragma unroll
    for (int n = 0; n < keys / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) ds[n][j] = s[n][j] * (ds[n][j] - delta[j / 2]);
    pack<T, keys>(ds, p);
    if (key + keys >= t1) break;
    step.wait(i);
    if constexpr (shape::stages > 2) load((stage == 0 ? shape::stages : stage) - 1);
    begin_mix<keys, Heads::dim, T>(sums, p, k(stage));
    if constexpr (shape::stages == 2) {
      wait_products<0, T>();
      __syncthreads();
      load(stage);
    }
    stage = stage + 1 == shape::stages ? 0 : stage + 1;
    begin();
  }
  begin_mix<keys, Heads::dim, T>(sums, p, k(stage));
  wait_products<0, T>();
  keep(sums);
  float const factors[2] = {factor, factor};
  store_rows<Heads::dim>(sums, factors, warp_row, t1, head * dim, dim, a.dq);
}

}  // namespace flash
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
