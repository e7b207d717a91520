// Latent attention on the device: heads whose values are not as long as their keys, and queries
// that meet latent vectors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backward.cuh"
#include "decode.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

/// A block has 16 rows, queries of all heads token by token, and tiles of latent rows in two
/// stages. For scores its warps share out the columns of rows, whose parts they add up, and then
/// the columns of the sums: so no warp reads all of a tile. Blocks that run at a time read the same
/// rows.
template <class T>
struct latent_shape {
  static constexpr int dim = latent_attend<T>::most_row, value = latent_attend<T>::most_rank;
  static constexpr int warps = 4, threads = 32 * warps, rows = 16;
  static constexpr int columns = dim / warps, value_columns = value / warps;  // of a warp
  static constexpr int keys = in_pairs<T> ? 32 : 8;
  static constexpr int tiles = (rows + 2 * keys) * dim * static_cast<int>(sizeof(T));  // bytes
  static constexpr int bytes = tiles + warps * rows * keys * 4;  // and scores of parts of columns
};

/// What parts are made of, and their sums: its heads are of latent vectors. Rows of q and keys have
/// `row` numbers.
template <class T>
struct latent_arguments : decode_arguments<T> {
  int row;
  float scale;
};

template <class T, class Arguments>
__global__ void __launch_bounds__(latent_shape<T>::threads)
    latent_kernel(__grid_constant__ Arguments const a) {
  using shape = latent_shape<T>;
  constexpr int keys = shape::keys, warps = shape::warps;
  using row_tile = tile<T, keys, shape::dim>;
  extern __shared__ __align__(1024) unsigned char memory[];
  int const thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  int const share = a.shape.query, row0 = block_row(a, blockIdx.x, share), token = row0 / share;
  int const rows = min(shape::rows, block_end(a, token, share) - row0);

  // This part's keys are [key0, key1), of all that the last row sees.
  int const past = block_past(a, token);
  auto const keys0 = first_key(a, token);
  int const all = past + (row0 + rows - 1) / share + 1;
  int const part = ceil_div(all, a.parts * keys) * keys;
  int const key0 = min(static_cast<int>(blockIdx.y) * part, all), key1 = min(key0 + part, all);
  if (key0 == key1) {
    if (thread < rows) {
      float* const softmax = a.softmax_of(row0 + thread, blockIdx.y);
      softmax[0] = -INFINITY;
      softmax[1] = 0;
    }
    return;
  }

  tile<T, shape::rows, shape::dim> const q{shared_address(memory)};
  auto tile_of = [&](int i) {
    return row_tile{q.address + q.bytes + static_cast<std::uint32_t>(i % 2 * row_tile::bytes)};
  };
  auto load = [&](int i) {
    int const key = key0 + i * keys;
    if (key < key1)
      tile_of(i).template load<shape::threads>(
          a.keys.data + static_cast<std::int64_t>(keys0 + key) * a.keys.stride, a.keys.stride,
          key1 - key, a.row, thread);
    commit_async();
  };
  constexpr int chunks = shape::dim / in_chunk<T>;
  for (int item = thread; item < shape::rows * chunks; item += shape::threads) {
    int const row = item / chunks, chunk = item % chunks;
    bool const there = row < rows && chunk * in_chunk<T> < a.row;
    int const from = there ? row0 + row : 0;
    copy_16(q.at(row, chunk),
            a.q.data + from / share * a.q.stride + from % share * a.row +
                (there ? chunk * in_chunk<T> : 0),
            there);
  }
  load(0);

  float const scale = log2_e * a.scale;
  auto* const scores_of = reinterpret_cast<float4*>(memory + shape::tiles);  // (warps, n, lane)
  float s[keys / 8][4], sums[shape::value_columns / 8][4] = {}, shrink[2];
  left<T, keys> p;
  running soft;
  visible const sees{{0, 0},
                     {past + (row0 + lane / 4) / share, past + (row0 + lane / 4 + 8) / share}};
  for (int i = 0; key0 + i * keys < key1; ++i) {
    wait_async<0>();
    __syncthreads();  // tile i is there, and all have done with the one before
    load(i + 1);
    warp_scores<keys, shape::columns, T>(s, q, 0, tile_of(i), warp * shape::columns);
#pragma unroll
    for (int n = 0; n < keys / 8; ++n)
      scores_of[(warp * (keys / 8) + n) * 32 + lane] = {s[n][0], s[n][1], s[n][2], s[n][3]};
    __syncthreads();
#pragma unroll
    for (int n = 0; n < keys / 8; ++n) {
      for (float& x : s[n]) x = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        float4 const other = scores_of[(w * (keys / 8) + n) * 32 + lane];
        s[n][0] += other.x, s[n][1] += other.y, s[n][2] += other.z, s[n][3] += other.w;
      }
    }
    int const key = key0 + i * keys;
    if (key + keys > past + 1) sees.mask(s, key);
    soft.soften(s, scale, shrink);
    scale_rows(sums, shrink);
    pack<T, keys>(s, p);
    warp_mix<keys, shape::value_columns, T>(sums, p, tile_of(i), warp * shape::value_columns);
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float const total = soft.total(r);
    int const row = lane / 4 + 8 * r;
    if (row >= rows) continue;
    float* const to = a.values_of(row0 + row, blockIdx.y);
#pragma unroll
    for (int n = 0; n < shape::value_columns / 8; ++n)
      if (int const c = warp * shape::value_columns + n * 8; c < a.shape.dim)
        *reinterpret_cast<float2*>(to + c + lane % 4 * 2) =
            float2{sums[n][2 * r], sums[n][2 * r + 1]};
    if (warp == 0 && lane % 4 == 0) {
      a.softmax_of(row0 + row, blockIdx.y)[0] = soft.highest[r] * scale;
      a.softmax_of(row0 + row, blockIdx.y)[1] = total;
    }
  }
}

template <class T>
latent_arguments<T> arguments_of(heads shape, places where, matrix<T const> q, matrix<T const> rows,
                                 matrix<T> mixed, float* log_weight, float* partial) {
  heads const of_vectors{shape.query, 1, shape.value};
  return {{of_vectors, where, q, rows, rows, mixed, log_weight, partial,
           decode_parts(of_vectors, where.tokens)},
          shape.dim,
          static_cast<float>(shape.scale)};
}
template <class T, class Arguments>
void decode_latent(Arguments const& a, CUstream_st* stream) {
  using kernel = latent_shape<T>;
  static_assert(kernel::bytes <= small_memory && kernel::rows == 16);
  if (a.where.tokens == 0) return;
  allow_memory(latent_kernel<T, Arguments>, kernel::bytes);
  dim3 const grid(blocks_of(a, a.shape.query), static_cast<unsigned>(a.parts));
  latent_kernel<T><<<grid, kernel::threads, kernel::bytes, stream>>>(a);
  check_launch("latent attention's decode");
  add_parts<T>(a, stream);
}

template <class T>
using latent_heads = apart<latent_attend<T>::most_dim, latent_attend<T>::most_value>;

}  // namespace flash

template <class T>
void latent_attend<T>::forward(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                               matrix<T const> values, matrix<T> mixed, float* log_weight,
                               CUstream_st* stream) {
  if (where.tokens == 0) return;
  flash::launch_forward<flash::latent_heads<T>, T>(
      {shape, where, q, keys, values, mixed, log_weight}, stream);
}

template <class T>
void latent_attend<T>::backward(heads shape, places where, matrix<T const> q, matrix<T const> k,
                                matrix<T const> v, matrix<T const> mixed, float const* log_weight,
                                matrix<T const> dmixed, matrix<T> dq, matrix<T> dk, matrix<T> dv,
                                float* delta, CUstream_st* stream) {
  if (where.tokens == 0) return;
  flash::launch_backward<flash::latent_heads<T>, T>(
      {shape, where, q, k, v, mixed, dmixed, log_weight, delta, dq, dk, dv}, stream);
}

template <class T>
void latent_attend<T>::decode(heads shape, places where, matrix<T const> q, matrix<T const> rows,
                              matrix<T> mixed, float* log_weight, float* partial,
                              CUstream_st* stream) {
  flash::decode_latent<T>(flash::arguments_of(shape, where, q, rows, mixed, log_weight, partial),
                          stream);
}
template <class T>
void latent_attend<T>::decode_each(heads shape, seats where, matrix<T const> q,
                                   matrix<T const> rows, matrix<T> mixed, float* log_weight,
                                   float* partial, CUstream_st* stream) {
  flash::decode_latent<T>(
      flash::of_each<flash::latent_arguments<T>>{
          flash::arguments_of(shape, {.tokens = where.tokens}, q, rows, mixed, log_weight, partial),
          where},
      stream);
}

template <class T>
using latent_attend_code = code<&latent_attend<T>::forward, &latent_attend<T>::backward,
                                &latent_attend<T>::decode, &latent_attend<T>::decode_each>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
