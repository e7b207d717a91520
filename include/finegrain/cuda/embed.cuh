// The embedding's kernels. The gradient sorts tokens by id, stably and without atomics on floats:
// every row of the table is the sum of its tokens in an order that the ids alone fix.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "embed.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
__global__ void embed_forward_kernel(std::int32_t const* ids, matrix<T const> table, matrix<T> y) {
  std::int64_t const t = blockIdx.x, id = ids[t];
  bool const known = id >= 0 && id < table.rows;
  for (std::int64_t c = threadIdx.x * vector::width; c < y.cols; c += blockDim.x * vector::width) {
    float nan[vector::width];
#pragma unroll
    for (int i = 0; i < vector::width; ++i) nan[i] = __int_as_float(0x7fc00000);
    vector::store(y.data + t * y.stride + c,
                  known ? vector::fetch(table.data + id * table.stride + c) : vector::pack<T>(nan));
  }
}

/// Tokens by their ids. An id that is not one of the table counts as `rows`, the last.
struct embed_keys {
  std::int32_t const *ids, *order;  // order: null for that of the tokens
  int tokens, rows;
  __device__ int token(int at) const { return order ? order[at] : at; }
  __device__ int key(int token) const {
    int const id = ids[token];
    return id >= 0 && id < rows ? id : rows;
  }
};
struct embed_pass {
  embed_keys keys;
  int shift, share;      // the digit's place; tokens that a block sorts
  std::int32_t* counts;  // (gridDim.x, digits)
  std::int32_t* sorted;
  __device__ int digit(int token) const {
    return keys.key(token) >> shift & (embed_scratch::digits - 1);
  }
};

/// How many of a block's tokens have each digit.
template <class Tag>
__global__ void __launch_bounds__(embed_scratch::digits) embed_count_kernel(embed_pass const p) {
  __shared__ int count[embed_scratch::digits];
  count[threadIdx.x] = 0;
  __syncthreads();
  int const first = blockIdx.x * p.share, last = min(first + p.share, p.keys.tokens);
  for (int at = first + threadIdx.x; at < last; at += blockDim.x)
    atomicAdd(count + p.digit(p.keys.token(at)), 1);
  __syncthreads();
  p.counts[blockIdx.x * embed_scratch::digits + threadIdx.x] = count[threadIdx.x];
}

/// Puts tokens in the order of a digit; those of one digit stay in the order they had. A thread
/// knows where the next token of digit threadIdx.x goes.
template <class Tag>
__global__ void __launch_bounds__(embed_scratch::digits) embed_sort_kernel(embed_pass const p) {
  constexpr int digits = embed_scratch::digits, warps = digits / 32;
  __shared__ int place[warps][digits];  // of the first token of a warp with a digit
  __shared__ int totals[warps];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  int next = 0, total = 0;
  for (int block = 0; block < static_cast<int>(gridDim.x); ++block) {
    int const count = p.counts[block * digits + threadIdx.x];
    if (block < static_cast<int>(blockIdx.x)) next += count;
    total += count;
  }
  int up_to = total;  // and all smaller digits
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    int const other = __shfl_up_sync(~0u, up_to, apart);
    if (lane >= apart) up_to += other;
  }
  if (lane == 31) totals[warp] = up_to;
#pragma unroll
  for (int w = 0; w < warps; ++w) place[w][threadIdx.x] = 0;
  __syncthreads();
  for (int w = 0; w < warp; ++w) up_to += totals[w];
  next += up_to - total;

  int const first = blockIdx.x * p.share, last = min(first + p.share, p.keys.tokens);
  for (int begin = first; begin < last; begin += digits) {
    int const at = begin + threadIdx.x;
    int const token = at < last ? p.keys.token(at) : 0;
    int const digit = at < last ? p.digit(token) : digits;
    unsigned const same = __match_any_sync(~0u, digit);
    int const before = __popc(same & ((1u << lane) - 1));
    if (at < last && before == 0) place[warp][digit] = __popc(same);
    __syncthreads();
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      int const count = place[w][threadIdx.x];
      place[w][threadIdx.x] = next;
      next += count;
    }
    __syncthreads();
    if (at < last) p.sorted[place[warp][digit] + before] = token;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < warps; ++w) place[w][threadIdx.x] = 0;
    __syncthreads();
  }
}

template <class T>
struct embed_sums {
  embed_keys keys;  // sorted
  matrix<T const> dy;
  matrix<T> dtable;
  float* partial;  // (chunks, 2, D): of an id that began before, and of one that goes on behind
  bool add;
  __device__ int key_at(int at) const { return keys.key(keys.order[at]); }
  __device__ float* part(int chunk, bool begins, int column) const {
    return partial + (2 * static_cast<std::int64_t>(chunk) + begins) * dy.cols + column;
  }
  __device__ void write(int id, int column, float (&sum)[vector::width]) const {
    T* const to = dtable.data + id * dtable.stride + column;
    if (add) {
      float old[vector::width];
      vector::load(to, old);
#pragma unroll
      for (int i = 0; i < vector::width; ++i) sum[i] += old[i];
    }
    vector::save(to, sum);
  }
};

/// Sums of the ids in one chunk; an id of several chunks is left to the next kernel.
template <class T>
__global__ void embed_sum_kernel(embed_sums<T> const p) {
  constexpr int chunk = embed_scratch::chunk, ahead = 4;
  __shared__ int token[chunk], key[chunk + 2];  // key[0] is that before the chunk
  int const first = blockIdx.x * chunk, count = min(chunk, p.keys.tokens - first);
  for (int i = threadIdx.x; i < chunk + 2; i += blockDim.x) {
    int const at = first + i - 1;
    key[i] = at >= 0 && at < p.keys.tokens ? p.key_at(at) : -1;
    if (i < count) token[i] = p.keys.order[first + i];
  }
  __syncthreads();
  int const column = (blockIdx.y * blockDim.x + threadIdx.x) * vector::width;
  if (column >= p.dy.cols) return;
  float sum[vector::width] = {};
  bool begins = key[0] != key[1];
  for (int i = 0; i < count; i += ahead) {
    vector::packed<T> rows[ahead];
#pragma unroll
    for (int j = 0; j < ahead; ++j)
      if (i + j < count) rows[j] = vector::fetch(p.dy.data + token[i + j] * p.dy.stride + column);
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      if (i + j >= count) break;
      float x[vector::width];
      vector::unpack(rows[j], x);
#pragma unroll
      for (int c = 0; c < vector::width; ++c) sum[c] += x[c];
      int const id = key[i + j + 1];
      bool const ends = key[i + j + 2] != id;
      if (!ends && i + j + 1 < count) continue;
      if (id == p.keys.rows)
        ;  // not an id of the table
      else if (begins && ends)
        p.write(id, column, sum);
      else
        vector::save(p.part(blockIdx.x, begins, column), sum);
      begins = true;
#pragma unroll
      for (int c = 0; c < vector::width; ++c) sum[c] = 0;
    }
  }
}

/// The sum of an id that goes on behind the chunk in which it begins. Eight warps share its chunks.
template <class T>
__global__ void embed_join_kernel(embed_sums<T> const p) {
  constexpr int chunk = embed_scratch::chunk, warps = 8;
  __shared__ float sums[warps][32][vector::width + 1];
  int const first = blockIdx.x * chunk, last = first + chunk;
  if (last >= p.keys.tokens) return;
  int const id = p.key_at(last);
  if (id == p.keys.rows || p.key_at(last - 1) != id) return;
  if (first > 0 && p.key_at(first - 1) == id) return;
  int end = last, above = p.keys.tokens;  // the first place of a larger id
  while (end < above) {
    int const middle = end + (above - end) / 2;
    if (p.key_at(middle) > id)
      above = middle;
    else
      end = middle + 1;
  }
  int const column = (blockIdx.y * 32 + threadIdx.x) * vector::width;
  float sum[vector::width] = {};
  if (column < p.dy.cols)
#pragma unroll 4
    for (int c = blockIdx.x + threadIdx.y; c <= (end - 1) / chunk; c += warps) {
      float x[vector::width];
      vector::load(p.part(c, c == static_cast<int>(blockIdx.x), column), x);
#pragma unroll
      for (int i = 0; i < vector::width; ++i) sum[i] += x[i];
    }
#pragma unroll
  for (int i = 0; i < vector::width; ++i) sums[threadIdx.y][threadIdx.x][i] = sum[i];
  __syncthreads();
  if (threadIdx.y > 0 || column >= p.dy.cols) return;
#pragma unroll
  for (int w = 1; w < warps; ++w)
#pragma unroll
    for (int i = 0; i < vector::width; ++i) sum[i] += sums[w][threadIdx.x][i];
  p.write(id, column, sum);
}

template <class T>
void embed<T>::forward(std::int32_t const* ids, matrix<T const> table, matrix<T> y,
                       CUstream_st* stream) {
  if (y.rows == 0) return;
  embed_forward_kernel<T>
      <<<static_cast<unsigned>(y.rows), vector::threads_for(y.cols / vector::width, 256), 0,
         stream>>>(ids, table, y);
  check_launch("embed_forward_kernel");
}

template <class T>
void embed<T>::backward(std::int32_t const* ids, matrix<T const> dy, embed_scratch const& scratch,
                        gradients mode, matrix<T> dtable, CUstream_st* stream) {
  if (mode == gradients::overwrite)
    check(cudaMemset2DAsync(dtable.data, static_cast<std::size_t>(dtable.stride) * sizeof(T), 0,
                            static_cast<std::size_t>(dtable.cols) * sizeof(T),
                            static_cast<std::size_t>(dtable.rows), stream),
          "clearing the embedding's gradient");
  if (dy.rows == 0) return;
  int const tokens = static_cast<int>(dy.rows), rows = static_cast<int>(dtable.rows);
  auto const shares = static_cast<unsigned>(embed_scratch::shares(tokens));
  embed_pass pass{{ids, nullptr, tokens, rows},
                  0,
                  static_cast<int>(ceil_div(tokens, shares)),
                  scratch.counts,
                  scratch.order[0]};
  for (; rows >> pass.shift > 0; pass.shift += embed_scratch::digit_bits) {
    embed_count_kernel<void><<<shares, embed_scratch::digits, 0, stream>>>(pass);
    check_launch("embed_count_kernel");
    embed_sort_kernel<void><<<shares, embed_scratch::digits, 0, stream>>>(pass);
    check_launch("embed_sort_kernel");
    pass.keys.order = pass.sorted;
    pass.sorted = scratch.order[pass.sorted == scratch.order[0]];
  }
  embed_sums<T> const sums{pass.keys, dy, dtable, scratch.partial, mode == gradients::accumulate};
  auto const chunks = static_cast<unsigned>(embed_scratch::chunks(tokens));
  std::int64_t const vectors = dy.cols / vector::width;
  unsigned const threads = vector::threads_for(vectors, 256);
  embed_sum_kernel<T>
      <<<dim3(chunks, vector::blocks_for(vectors, threads)), threads, 0, stream>>>(sums);
  check_launch("embed_sum_kernel");
  embed_join_kernel<T>
      <<<dim3(chunks, vector::blocks_for(vectors, 32)), dim3(32, 8), 0, stream>>>(sums);
  check_launch("embed_join_kernel");
}

template <class T>
using embed_code = code<&embed<T>::forward, &embed<T>::backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
