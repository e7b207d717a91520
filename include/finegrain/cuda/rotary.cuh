// Rotary positions on the device: the kernel, and the search for a row's sequence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "memory.cuh"
#include "rotary.hpp"
#include "tile/number.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline __device__ std::int64_t past_of(places const& p) {
  return p.past_on_device ? *p.past_on_device : p.past;
}

/// The sequences that N rows are in: the last ones that begin at or before them. All searches go
/// on together, so that their loads do.
template <int N>
__device__ void find_sequences(places const& p, int const (&row)[N], int (&sequence)[N]) {
  for (int& s : sequence) s = 0;
  if (p.starts == nullptr) return;
  for (int span = static_cast<int>(p.sequences); span > 1;) {
    int const half = span / 2;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (p.starts[sequence[i] + half] <= row[i]) sequence[i] += half;
    span -= half;
  }
}
inline __device__ int first_row(places const& p, int sequence) {
  return p.starts ? static_cast<int>(p.starts[sequence]) : 0;
}
inline __device__ int end_row(places const& p, int sequence) {
  return p.starts ? static_cast<int>(p.starts[sequence + 1]) : static_cast<int>(p.tokens);
}

/// A border, first_row or end_row, of the sequences that four rows are in. The last two rows are a
/// block's: their borders are told to be alike in all lanes.
template <class Of>
__device__ void find_borders(places const& p, int const (&row)[4], int (&border)[4], Of of) {
  int sequence[4];
  find_sequences(p, row, sequence);
  for (int i = 0; i < 4; ++i) border[i] = of(p, sequence[i]);
  for (int i = 2; i < 4; ++i) border[i] = __shfl_sync(~0u, border[i], 0);
}

inline constexpr int rotary_pairs = 128;  // of a head, at most

/// Turns a position, by pair: from the host, which has a good pow.
struct rotary_speeds {
  double turns[rotary_pairs];
};

/// Four neighbouring pairs of a head, whose halves begin at u and v.
template <class T>
__device__ void turn_pairs(T* u, T* v, float const* sine, float const* cosine) {
  struct alignas(4 * sizeof(T)) four {
    T numbers[4];
  };
  four a = *reinterpret_cast<four const*>(u), b = *reinterpret_cast<four const*>(v);
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    float2 const x = load_two(a.numbers + i), y = load_two(b.numbers + i);
    store_two(a.numbers + i, x.x * cosine[i] - y.x * sine[i],
              x.y * cosine[i + 1] - y.y * sine[i + 1]);
    store_two(b.numbers + i, x.x * sine[i] + y.x * cosine[i],
              x.y * sine[i + 1] + y.y * cosine[i + 1]);
  }
  *reinterpret_cast<four*>(u) = a;
  *reinterpret_cast<four*>(v) = b;
}

/// The sine and cosine of pair threadIdx.x, by which a row is turned.
inline __device__ void find_turn(places const& where, int const (&row)[1],
                                 rotary_speeds const& speeds, float* sine, float* cosine) {
  std::int64_t position;
  if (where.positions) {
    position = where.positions[row[0]];
  } else {
    int sequence[1];
    find_sequences(where, row, sequence);
    position = past_of(where) + row[0] - first_row(where, sequence[0]);
  }
  double const turns = static_cast<double>(position) * speeds.turns[threadIdx.x];
  sincospif(2 * static_cast<float>(turns - rint(turns)), sine, cosine);
}

/// A block turns one row: its sines once, then every head of q and of k.
template <class T>
__global__ void __launch_bounds__(256)
    turn_kernel(places where, int dim, int head, float direction, float size,
                __grid_constant__ rotary_speeds const speeds, matrix<T> q, matrix<T> k) {
  __shared__ float sine[rotary_pairs], cosine[rotary_pairs];
  int const row[1] = {static_cast<int>(blockIdx.x)}, half = dim / 2;
  if (static_cast<int>(threadIdx.x) < half) {
    float s, c;
    find_turn(where, row, speeds, &s, &c);
    sine[threadIdx.x] = direction * size * s;
    cosine[threadIdx.x] = size * c;
  }
  __syncthreads();
  int const fours = half / 4, in_q = static_cast<int>(q.cols) / head * fours,
            all = in_q + static_cast<int>(k.cols) / head * fours;
  for (int item = threadIdx.x; item < all; item += blockDim.x) {
    matrix<T> const& m = item < in_q ? q : k;
    int const in_m = item < in_q ? item : item - in_q, i = in_m % fours * 4;
    T* const first = m.data + row[0] * m.stride + in_m / fours * head + i;
    turn_pairs(first, first + half, sine + i, cosine + i);
  }
}

/// Turns a position, slowed by YaRN where `how` says so.
inline rotary_speeds speeds_of(finegrain::rotary const& how) {
  rotary_speeds speeds{};
  for (int i = 0; i < how.dim / 2; ++i)
    speeds.turns[i] =
        std::pow(how.theta, -2.0 * i / how.dim) * how.slowed(i) / 6.283185307179586477;
  return speeds;
}

template <class T>
void rotary<T>::turn(places where, finegrain::rotary const& how, float direction, matrix<T> q,
                     matrix<T> k, CUstream_st* stream) {
  if (where.tokens == 0) return;
  turn_kernel<T><<<static_cast<unsigned>(where.tokens), 256, 0, stream>>>(
      where, how.dim, how.head, direction, static_cast<float>(how.size()), speeds_of(how), q, k);
  check_launch("rotary");
}

/// The same of neighbours among the last numbers of heads.
template <class T>
__global__ void __launch_bounds__(256)
    turn_neighbours_kernel(places where, int dim, int head, float direction, float size,
                           __grid_constant__ rotary_speeds const speeds, matrix<T> m) {
  __shared__ float sine[rotary_pairs], cosine[rotary_pairs];
  int const row[1] = {static_cast<int>(blockIdx.x)};
  if (static_cast<int>(threadIdx.x) < dim / 2) {
    float s, c;
    find_turn(where, row, speeds, &s, &c);
    sine[threadIdx.x] = direction * size * s;
    cosine[threadIdx.x] = size * c;
  }
  __syncthreads();
  int const eights = dim / 8, all = static_cast<int>(m.cols) / head * eights;
  for (int item = threadIdx.x; item < all; item += blockDim.x) {
    int const i = item % eights * 8;
    T* const at = m.data + row[0] * m.stride + (item / eights + 1) * head - dim + i;
    float x[8];
    unpack<T>(x, load_eight(at));
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      float const u = x[j], v = x[j + 1], s = sine[(i + j) / 2], c = cosine[(i + j) / 2];
      x[j] = u * c - v * s;
      x[j + 1] = u * s + v * c;
    }
    store_eight(at, pack<T>(x));
  }
}

template <class T>
void rotary<T>::turn_neighbours(places where, finegrain::rotary const& how, float direction,
                                matrix<T> m, CUstream_st* stream) {
  if (where.tokens == 0) return;
  turn_neighbours_kernel<T><<<static_cast<unsigned>(where.tokens), 256, 0, stream>>>(
      where, how.dim, how.head, direction, static_cast<float>(how.size()), speeds_of(how), m);
  check_launch("rotary of neighbours");
}

template <class T>
using rotary_neighbours_code = code<&rotary<T>::turn_neighbours>;
template <class T>
using rotary_code = code<&rotary<T>::turn>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
