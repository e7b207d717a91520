// Attention on the device, forward: a block of queries meets keys in tiles, with a running softmax.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "../attention.hpp"
#include "../rotary.cuh"
#include "products.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

inline constexpr float log2_e = 1.44269504088896340736f, ln_2 = 0.69314718055994530942f;

/// What a block has on GPUs with least: compute capability 8.6, 8.9, 12.0.
inline constexpr int small_memory = 99 << 10;

/// Heads as kernels see them: columns of the tiles that a head's keys and values lie in, how many
/// numbers its values have, and what its scores are times.
template <int Dim>
struct alike {
  static constexpr int dim = Dim, value = Dim;
  __device__ static int values(heads const& shape) { return shape.dim; }
  __device__ static float scale(heads const& shape) { return static_cast<float>(shape.scale); }
};
/// Those whose values have a size of their own.
template <int Dim, int Value>
struct apart {
  static constexpr int dim = Dim, value = Value;
  __device__ static int values(heads const& shape) { return shape.value; }
  __device__ static float scale(heads const& shape) { return static_cast<float>(shape.scale); }
};

/// Shapes of the forward kernel: groups of 4 warps have 64 queries each, and share tiles of keys
/// and values that come in stages. Without wgmma tiles fit a GPU with 99 KB: small_memory.
template <class T, class Heads, bool Hopper>
struct forward_shape {
  static constexpr int dim = Heads::dim, groups = !in_pairs<T> ? 1 : dim > 64 ? 2 : 3;
  static constexpr int queries = 64 * groups, threads = 128 * groups;
  static constexpr int portable = (dim > 192 ? 16 : dim > 128 ? 32 : 64) / (in_pairs<T> ? 1 : 2);
  static constexpr int keys = !Hopper ? portable : dim > 128 ? 64 : 128;
  static constexpr int value_stages = Hopper ? 3 : 2;  // of keys there are 2
  static constexpr int numbers =                       // of all tiles
      (queries + 2 * keys) * dim + value_stages * keys * Heads::value;
  static constexpr int tiles = numbers * static_cast<int>(sizeof(T));  // bytes
  static constexpr int bytes = tiles + 8;                              // and a milestone
};

template <class T>
struct forward_arguments {
  heads shape;
  places where;
  matrix<T const> q, keys, values;
  matrix<T> mixed;
  float* log_weight;
};

inline __device__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Keys that a thread's two rows see: [first, last] of each.
struct visible {
  int first[2], last[2];

  /// Whether they do: of n8 tile n, sum i. The tile's keys begin at `key`.
  __device__ bool at(int n, int i, int key) const {
    int const j = key + n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
    return j >= first[i / 2] && j <= last[i / 2];
  }
  /// Makes scores of other keys -inf.
  template <int N>
  __device__ void mask(float (&s)[N][4], int key) const {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!at(n, i, key)) s[n][i] = -INFINITY;
  }
};

/// The softmax of a thread's two rows so far.
struct running {
  float highest[2] = {-INFINITY, -INFINITY};  // in units of raw scores; all lanes of a row alike
  float sum[2] = {0, 0};                      // of this lane's columns

  /// Turns scores into weights; shrink is what earlier sums are to be multiplied with. A row of
  /// which nothing is visible stays as it was. scale is that of scores, times log2(e).
  template <int N>
  __device__ void soften(float (&s)[N][4], float scale, float (&shrink)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = highest[r];
#pragma unroll
      for (int n = 0; n < N; ++n) most = fmaxf(most, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      float const zero = most == -INFINITY ? 0 : __fmul_rn(most, scale);
      // (The product rounded as in zero: exactly 1 where highest stays, so that further tiles of
      // which a row sees nothing leave its bits alone.)
      shrink[r] = exp2_fast(__fmul_rn(highest[r], scale) - zero);
      highest[r] = most;
      float part = 0;
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          s[n][i] = exp2_fast(s[n][i] * scale - zero);
          part += s[n][i];
        }
      sum[r] = sum[r] * shrink[r] + part;
    }
  }
  /// The sum of a row, all lanes'.
  __device__ float total(int r) const {
    float all = sum[r];
    all += __shfl_xor_sync(~0u, all, 1);
    return all + __shfl_xor_sync(~0u, all, 2);
  }
};

template <int N>
__device__ void scale_rows(float (&d)[N][4], float const (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) d[n][i] *= factor[i / 2];
}

/// A block: one query head of forward_shape::queries rows. Blocks with most keys come first.
/// Key tiles begin at multiples of their size, whatever the rows: a token gets the same bits from
/// any block that it is in.
template <class T, class Heads>
__global__ void __launch_bounds__(forward_shape<T, Heads, by_groups<T>>::threads)
    forward_kernel(__grid_constant__ forward_arguments<T> const a) {
  using shape = forward_shape<T, Heads, by_groups<T>>;
  constexpr int queries = shape::queries, keys = shape::keys, threads = shape::threads;
  using key_tile = tile<T, keys, Heads::dim>;
  using value_tile = tile<T, keys, Heads::value>;
  extern __shared__ __align__(1024) unsigned char memory[];
  tile<T, queries, Heads::dim> const q{shared_address(memory)};
  auto k = [&](int stage) {
    return key_tile{q.address + q.bytes + static_cast<std::uint32_t>(stage * key_tile::bytes)};
  };
  auto v = [&](int stage) {
    return value_tile{k(2).address + static_cast<std::uint32_t>(stage * value_tile::bytes)};
  };
  milestone const step{shared_address(memory) + shape::tiles};

  int const thread = threadIdx.x, lane = thread % 32, dim = a.shape.dim;
  int const value = Heads::values(a.shape);
  int const tokens = static_cast<int>(a.where.tokens), past = static_cast<int>(past_of(a.where));
  int const head = blockIdx.x, shared_head = head / (a.shape.query / a.shape.key_value);
  int const t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * queries;
  int const t1 = min(t0 + queries, tokens), group_row = group_of_thread() * 64;
  int const warp_row = t0 + thread / 32 * 16;

  int const row[4] = {min(warp_row + lane / 4, tokens - 1),
                      min(warp_row + lane / 4 + 8, tokens - 1), t0, t1 - 1};
  int first[4];
  find_borders(a.where, row, first, first_row);
  visible const sees{{first[0], first[1]}, {past + row[0], past + row[1]}};

  // The tile's keys: [key0, end). Within [whole0, whole1) all of its rows see all of them.
  int const key0 = first[2] / keys * keys, end = past + t1, whole0 = first[3],
            whole1 = past + t0 + group_row + 1;
  int const tiles = ceil_div(end - key0, keys);
  T const* const from_k = a.keys.data + shared_head * dim;
  T const* const from_v = a.values.data + shared_head * value;
  auto load = [&](auto to, T const* from, std::int64_t stride, int size, int i) {
    if (i < tiles)
      to.template load<threads>(from + (key0 + std::int64_t{i} * keys) * stride, stride,
                                end - key0 - i * keys, size, thread);
  };
  float const scale = log2_e * Heads::scale(a.shape);

  if (thread == 0) step.create(threads);
  q.template load<threads>(a.q.data + t0 * a.q.stride + head * dim, a.q.stride, t1 - t0, dim,
                           thread);
  load(k(0), from_k, a.keys.stride, dim, 0);
  commit_async();
  load(v(0), from_v, a.values.stride, value, 0);
  load(k(1), from_k, a.keys.stride, dim, 1);
  commit_async();
  wait_copies<1>();
  __syncthreads();

  float s[keys / 8][4], sums[Heads::value / 8][4] = {}, shrink[2];
  left<T, keys> p;
  running soft;
  auto soften = [&](int i) {
    int const key = key0 + i * keys;
    if (key < whole0 || key + keys > whole1) {
      sees.mask(s, key);
      // In branches: so the compiler does not wait for the other product first, and soften then.
      if constexpr (by_groups<T>) return soft.soften(s, scale, shrink);
    }
    soft.soften(s, scale, shrink);
  };
  // In step i the next tile's scores are made, and this one's values mixed. step's time i is when
  // a thread's copies for step i have arrived, and its group has done with tile i's keys, and
  // with the values of step i - 2: without wgmma, also with those of step i - 1.
  begin_scores<keys, T>(s, q, group_row, k(0));
  wait_products<0, T>();
  keep(s);
  wait_copies<0>();
  step.pass();
  soften(0);
  pack<T, keys>(s, p);
  int value_stage = 0;
  for (int i = 0; i + 1 < tiles; ++i) {
    int const next = value_stage + 1 == shape::value_stages ? 0 : value_stage + 1;
    step.wait(i);
    load(v(next), from_v, a.values.stride, value, i + 1);
    load(k(i % 2), from_k, a.keys.stride, dim, i + 2);
    commit_async();
    begin_scores<keys, T>(s, q, group_row, k((i + 1) % 2));
    begin_mix<keys, Heads::value, T>(sums, p, v(value_stage));
    wait_products<1, T>();
    keep(s);
    wait_copies<0>();
    step.pass();
    soften(i + 1);
    keep(s);
    wait_products<0, T>();
    keep(sums);
    if (__any_sync(~0u, shrink[0] != 1 || shrink[1] != 1)) scale_rows(sums, shrink);
    keep(p);
    pack<T, keys>(s, p);
    value_stage = next;
  }
  step.wait(tiles - 1);
  begin_mix<keys, Heads::value, T>(sums, p, v(value_stage));
  wait_products<0, T>();
  keep(sums);

  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float const total = soft.total(r);
    factor[r] = 1 / total;
    int const t = warp_row + lane / 4 + 8 * r;
    if (lane % 4 == 0 && t < t1)
      a.log_weight[static_cast<std::int64_t>(t) * a.shape.query + head] =
          ln_2 * (soft.highest[r] * scale) + logf(total);
  }
  store_rows<Heads::value>(sums, factor, warp_row, t1, head * value, value, a.mixed);
}

template <class Kernel>
void allow_memory(Kernel* kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "asking for shared memory");
}

template <class Heads, class T>
void launch_forward(forward_arguments<T> const& a, CUstream_st* stream) {
  using shape = forward_shape<T, Heads, false>;  // has the same rows as that of Hopper
  static_assert(shape::bytes <= small_memory);
  int const bytes = on_hopper() ? forward_shape<T, Heads, in_pairs<T>>::bytes : shape::bytes;
  allow_memory(forward_kernel<T, Heads>, bytes);
  dim3 const grid(static_cast<unsigned>(a.shape.query),
                  static_cast<unsigned>(ceil_div(a.where.tokens, shape::queries)));
  forward_kernel<T, Heads><<<grid, shape::threads, static_cast<std::size_t>(bytes), stream>>>(a);
  check_launch("attention's forward");
}

}  // namespace flash

template <class T>
void attend<T>::forward(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                        matrix<T const> values, matrix<T> mixed, float* log_weight,
                        CUstream_st* stream) {
  if (where.tokens == 0) return;
  flash::forward_arguments<T> const a{shape.with_scale(), where, q, keys, values, mixed,
                                      log_weight};
  if (shape.dim <= 64)
    flash::launch_forward<flash::alike<64>>(a, stream);
  else if (shape.dim <= 128)
    flash::launch_forward<flash::alike<128>>(a, stream);
  else
    flash::launch_forward<flash::alike<256>>(a, stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
