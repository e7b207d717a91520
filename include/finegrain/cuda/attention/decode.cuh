// Attention on the device, for few tokens and many keys: parts of the keys first, then their sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "forward.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace flash {

/// A block has 16 rows, which are the query heads of one key-value head, token by token. Each of
/// its warps takes 16 keys at a time, and has two stages of them.
template <class T, int Dim>
struct decode_shape {
  static constexpr int size = static_cast<int>(sizeof(T)), row = Dim * size;  // bytes
  static constexpr int warps = row > 512 ? 1 : row > 256 ? 2 : 4;
  static constexpr int threads = 32 * warps, rows = 16, keys = 16;
  static constexpr int stage = 2 * keys * row;  // bytes, of one warp
  static constexpr int bytes = rows * row + warps * 2 * stage;
};

template <class T>
struct decode_arguments {
  heads shape;
  places where;
  matrix<T const> q, keys, values;
  matrix<T> mixed;
  float *log_weight, *partial;
  int parts;
  static constexpr int blocks_at_least = 0;  // of a multiprocessor: nvcc's choice

  /// Weighted values of a row's part, (dim); its highest score, in powers of 2, and sum.
  __device__ float* values_of(std::int64_t row, int part) const {
    return partial + (row * parts + part) * shape.dim;
  }
  __device__ float* softmax_of(std::int64_t row, int part) const {
    return values_of(where.tokens * shape.query, 0) + (row * parts + part) * 2;
  }
};

/// The same where each token is of a sequence of its own.
template <class Arguments>
struct of_each : Arguments {
  device::seats seats;
  static constexpr int blocks_at_least = 1;  // f32 spills where nvcc makes room for two

  __device__ std::int64_t place_of(int token) const { return seats.rows[token] % seats.capacity; }
};

// Of a block's 16 rows of (T, share), those of all tokens together or of each: the first, where they end
// at most, what stands before the first token, and the row of keys that its sequence begins at.
template <class T>
__device__ int block_row(decode_arguments<T> const&, unsigned block, int) {
  return block * 16;
}
template <class T>
__device__ int block_end(decode_arguments<T> const& a, int, int share) {
  return static_cast<int>(a.where.tokens) * share;
}
template <class T>
__device__ int block_past(decode_arguments<T> const& a, int) {
  return static_cast<int>(past_of(a.where));
}
template <class T>
__device__ int first_key(decode_arguments<T> const&, int) {
  return 0;
}
template <class Arguments>
__device__ int block_row(of_each<Arguments> const&, unsigned block, int share) {
  unsigned const tiles = (share + 15) / 16;
  return static_cast<int>(block / tiles) * share + static_cast<int>(block % tiles) * 16;
}
template <class Arguments>
__device__ int block_end(of_each<Arguments> const&, int token, int share) {
  return (token + 1) * share;
}
template <class Arguments>
__device__ int block_past(of_each<Arguments> const& a, int token) {
  return static_cast<int>(a.place_of(token)) - token;
}
template <class Arguments>
__device__ std::int64_t first_key(of_each<Arguments> const& a, int token) {
  return a.seats.rows[token] - a.place_of(token);
}

template <class T, int Dim, class Arguments>
__global__ void __launch_bounds__(decode_shape<T, Dim>::threads, Arguments::blocks_at_least)
    decode_kernel(__grid_constant__ Arguments const a) {
  using shape = decode_shape<T, Dim>;
  constexpr int keys = shape::keys, warps = shape::warps;
  using key_tile = tile<T, keys, Dim>;
  extern __shared__ __align__(1024) unsigned char memory[];
  int const thread = threadIdx.x, lane = thread % 32, warp = thread / 32, dim = a.shape.dim;
  int const share = a.shape.query / a.shape.key_value, shared_head = blockIdx.x;
  int const row0 = block_row(a, blockIdx.z, share), token = row0 / share;
  int const rows = min(shape::rows, block_end(a, token, share) - row0);
  auto row_of = [&](int row) {  // of (T, query heads)
    return static_cast<std::int64_t>((row0 + row) / share) * a.shape.query + shared_head * share +
           (row0 + row) % share;
  };

  // This part's keys are [key0, key1), of all that the last row sees.
  int const past = block_past(a, token);
  auto const keys0 = first_key(a, token);
  int const all = past + (row0 + rows - 1) / share + 1, step = keys * warps;
  int const part = ceil_div(all, a.parts * step) * step;
  int const key0 = min(blockIdx.y * part, all), key1 = min(key0 + part, all);
  if (key0 == key1) {
    if (thread < rows) {
      float* const softmax = a.softmax_of(row_of(thread), blockIdx.y);
      softmax[0] = -INFINITY;
      softmax[1] = 0;
    }
    return;
  }

  tile<T, shape::rows, Dim> const q{shared_address(memory)};
  auto k = [&](int stage) {
    return key_tile{q.address + q.bytes +
                    static_cast<std::uint32_t>((warp * 2 + stage % 2) * shape::stage)};
  };
  auto v = [&](int stage) { return key_tile{k(stage).address + key_tile::bytes}; };
  auto load = [&](int i) {
    int const key = key0 + (i * warps + warp) * keys;
    if (key < key1) {
      auto const row = keys0 + key;
      k(i).template load<32>(a.keys.data + row * a.keys.stride + shared_head * dim, a.keys.stride,
                             key1 - key, dim, lane);
      v(i).template load<32>(a.values.data + row * a.values.stride + shared_head * dim,
                             a.values.stride, key1 - key, dim, lane);
    }
    commit_async();
  };
  for (int item = thread; item < shape::rows * Dim / in_chunk<T>; item += shape::threads) {
    int const row = item / (Dim / in_chunk<T>), chunk = item % (Dim / in_chunk<T>);
    bool const there = row < rows && chunk * in_chunk<T> < dim;
    std::int64_t const from = there ? row_of(row) : 0;
    copy_16(q.at(row, chunk),
            a.q.data + from / a.shape.query * a.q.stride + from % a.shape.query * dim +
                (there ? chunk * in_chunk<T> : 0),
            there);
  }
  load(0);
  wait_copies<0>();
  __syncthreads();

  float const scale = log2_e * alike<Dim>::scale(a.shape);
  float s[keys / 8][4], sums[Dim / 8][4] = {}, shrink[2];
  left<T, keys> p;
  running soft;
  visible const sees{{0, 0},
                     {past + (row0 + lane / 4) / share, past + (row0 + lane / 4 + 8) / share}};
  for (int i = 0; key0 + (i * warps + warp) * keys < key1; ++i) {
    load(i + 1);
    wait_copies<1>();
    __syncwarp();
    warp_scores<keys, Dim, T>(s, q, 0, k(i), 0);
    int const key = key0 + (i * warps + warp) * keys;
    if (key + keys > past + 1) sees.mask(s, key);
    soft.soften(s, scale, shrink);
    scale_rows(sums, shrink);
    pack<T, keys>(s, p);
    warp_mix<keys, Dim, T>(sums, p, v(i), 0);
    __syncwarp();
  }

  // The warps' sums, added in order.
  wait_copies<0>();
  float total[2] = {soft.total(0), soft.total(1)};
  __syncthreads();
  auto* const sum_of = reinterpret_cast<float*>(memory + q.bytes);  // (warps, rows, Dim)
  auto* const softmax_of = reinterpret_cast<float*>(memory);        // (warps, rows, 2)
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int const at = warp * shape::rows + lane / 4 + 8 * r;
    if (lane % 4 == 0) {
      softmax_of[at * 2] = soft.highest[r] * scale;
      softmax_of[at * 2 + 1] = total[r];
    }
#pragma unroll
    for (int n = 0; n < Dim / 8; ++n)
      *reinterpret_cast<float2*>(sum_of + at * Dim + n * 8 + lane % 4 * 2) =
          float2{sums[n][2 * r], sums[n][2 * r + 1]};
  }
  __syncthreads();
  for (int row = 0; row < rows; ++row) {
    float highest = -INFINITY, weight[warps], all_weights = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w)
      highest = fmaxf(highest, softmax_of[(w * shape::rows + row) * 2]);
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      float const* const softmax = softmax_of + (w * shape::rows + row) * 2;
      weight[w] = highest == -INFINITY ? 0 : exp2_fast(softmax[0] - highest);
      all_weights += weight[w] * softmax[1];
    }
    std::int64_t const to = row_of(row);
    for (int c = thread; c < dim; c += shape::threads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) sum += weight[w] * sum_of[(w * shape::rows + row) * Dim + c];
      a.values_of(to, blockIdx.y)[c] = sum;
    }
    if (thread == 0) {
      a.softmax_of(to, blockIdx.y)[0] = highest;
      a.softmax_of(to, blockIdx.y)[1] = all_weights;
    }
  }
}

/// A block adds the parts of one token's query head, in order.
template <class T>
__global__ void __launch_bounds__(128)
    add_parts_kernel(__grid_constant__ decode_arguments<T> const a) {
  __shared__ float highest_of[most_decode_parts], sum_of[most_decode_parts];
  std::int64_t const token = blockIdx.y, row = token * a.shape.query + blockIdx.x;
  for (int part = threadIdx.x; part < a.parts; part += 128) {
    highest_of[part] = a.softmax_of(row, part)[0];
    sum_of[part] = a.softmax_of(row, part)[1];
  }
  __syncthreads();
  float highest = -INFINITY, sum = 0;
  for (int part = 0; part < a.parts; ++part) highest = fmaxf(highest, highest_of[part]);
  for (int part = 0; part < a.parts; ++part)
    sum += exp2_fast(highest_of[part] - highest) * sum_of[part];
  for (int c = threadIdx.x; c < a.shape.dim; c += 128) {
    float mixed = 0;
#pragma unroll 16
    for (int part = 0; part < a.parts; ++part)
      if (sum_of[part] != 0)  // else nobody wrote its values
        mixed += exp2_fast(highest_of[part] - highest) * a.values_of(row, part)[c];
    store_one(a.mixed.data + token * a.mixed.stride + blockIdx.x * a.shape.dim + c, mixed / sum);
  }
  if (threadIdx.x == 0 && a.log_weight) a.log_weight[row] = ln_2 * highest + logf(sum);
}

template <class T>
void add_parts(decode_arguments<T> const& a, CUstream_st* stream) {
  dim3 const rows(static_cast<unsigned>(a.shape.query), static_cast<unsigned>(a.where.tokens));
  add_parts_kernel<T><<<rows, 128, 0, stream>>>(a);
  check_launch("attention's sum of parts");
}

/// Blocks of 16 rows of (T, share): of all tokens together, or of each.
template <class T>
unsigned blocks_of(decode_arguments<T> const& a, int share) {
  return static_cast<unsigned>((a.where.tokens * share + 15) / 16);
}
template <class Arguments>
unsigned blocks_of(of_each<Arguments> const& a, int share) {
  return static_cast<unsigned>(a.where.tokens * ((share + 15) / 16));
}

template <class T, int Dim, class Arguments>
void launch_decode(Arguments const& a, CUstream_st* stream) {
  using shape = decode_shape<T, Dim>;
  static_assert(shape::bytes <= small_memory && shape::rows == 16);
  allow_memory(decode_kernel<T, Dim, Arguments>, shape::bytes);
  dim3 const grid(static_cast<unsigned>(a.shape.key_value), static_cast<unsigned>(a.parts),
                  blocks_of(a, a.shape.query / a.shape.key_value));
  decode_kernel<T, Dim><<<grid, shape::threads, shape::bytes, stream>>>(a);
  check_launch("attention's decode");
}
/// Parts, and their sum.
template <class T, class Arguments>
void decode_parts_and_add(Arguments const& a, CUstream_st* stream) {
  if (a.where.tokens == 0) return;
  if (a.shape.dim <= 64)
    launch_decode<T, 64>(a, stream);
  else if (a.shape.dim <= 128)
    launch_decode<T, 128>(a, stream);
  else
    launch_decode<T, 256>(a, stream);
  add_parts<T>(a, stream);
}

}  // namespace flash

template <class T>
void attend<T>::decode(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                       matrix<T const> values, matrix<T> mixed, float* log_weight, float* partial,
                       CUstream_st* stream) {
  flash::decode_parts_and_add<T>(
      flash::decode_arguments<T>{shape.with_scale(), where, q, keys, values, mixed, log_weight,
                                 partial, decode_parts(shape, where.tokens)},
      stream);
}
template <class T>
void attend<T>::decode_each(heads shape, seats where, matrix<T const> q, matrix<T const> keys,
                            matrix<T const> values, matrix<T> mixed, float* log_weight,
                            float* partial, CUstream_st* stream) {
  flash::decode_parts_and_add<T>(
      flash::of_each<flash::decode_arguments<T>>{{shape.with_scale(),
                                                  {.tokens = where.tokens},
                                                  q,
                                                  keys,
                                                  values,
                                                  mixed,
                                                  log_weight,
                                                  partial,
                                                  decode_parts(shape, where.tokens)},
                                                 where},
      stream);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
