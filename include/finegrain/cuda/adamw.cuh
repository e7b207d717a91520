// AdamW's kernels: bound by memory, 28 bytes a weight.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/random.hpp"
#include "adamw.hpp"
#include "vector.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// f(place, N) for all numbers of a range that are this block's, the part-th of so many; N at once
/// where the range lies so that it may.
template <class F>
__device__ void for_range(weight_range const& range, int part, int parts, F f) {
  constexpr int N = vector::width;
  std::int64_t const whole = range.offset % N == 0 ? range.count / N * N : 0;
  int const first = part * blockDim.x + threadIdx.x, step = parts * blockDim.x;
  for (std::int64_t i = first * N; i < whole; i += step * N)
    f(range.offset + i, std::integral_constant<int, N>{});
  for (std::int64_t i = whole + first; i < range.count; i += step)
    f(range.offset + i, std::integral_constant<int, 1>{});
}

/// Sums of squares, a block a range.
template <class T>
__global__ void __launch_bounds__(256)
    sum_of_squares_kernel(weight_range const* ranges, T const* g, double* partial) {
  __shared__ double memory[32];
  double sum = 0;
  for_range(ranges[blockIdx.x], 0, 1, [&](std::int64_t at, auto shape) {
    float x[decltype(shape)::value];
    vector::load(g + at, x);
#pragma unroll
    for (float const one : x) sum += static_cast<double>(one) * static_cast<double>(one);
  });
  sum = vector::block_sum(sum, memory);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// One block: the norm, and what follows from it for all weights.
template <class Tag>
__global__ void __launch_bounds__(1024)
    gradient_norm_kernel(adamw_numbers const how, adamw_request const asked, double const* partial,
                         std::int64_t count, double const* loss, std::int64_t const* terms,
                         adamw_step* step) {
  __shared__ double memory[32];
  double sum = 0;
#pragma unroll 8
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = vector::block_sum(sum, memory);
  if (threadIdx.x > 0) return;
  adamw_step s;
  double const rate = asked.rate * asked.schedule.at(step->step);
  s.step = step->step + 1;
  auto const t = static_cast<double>(s.step);
  s.norm = sqrt(sum) / asked.gathered;
  s.loss = loss ? *loss : 0.0;
  s.terms = terms ? *terms : 0;
  s.finite = isfinite(s.norm);
  bool const cut = asked.clip > 0 && s.norm > asked.clip;
  s.scale = static_cast<float>((cut ? asked.clip / s.norm : 1.0) / asked.gathered);
  s.pace = static_cast<float>(rate / (1 - pow(how.beta1, t)));
  s.unbias = static_cast<float>(1 / sqrt(1 - pow(how.beta2, t)));
  s.rate = rate;
  s.decay = rate * how.weight_decay;
  *step = s;
}

/// The numbers of one step as its formula needs them, and the arrays.
template <class T>
struct adamw_arrays {
  float beta1, beta2, rest1, rest2, epsilon;
  weight_range const* ranges;
  T const* g;
  float *w, *m, *v;
  T* weights;
  adamw_step const* step;
};

/// Blocks that share a range: with a vector a thread, those that run at a time read and write places
/// side by side, which memory likes.
inline constexpr int adamw_parts = 16;

template <class T>
__global__ void __launch_bounds__(128) adamw_kernel(adamw_arrays<T> const p) {
  if (!p.step->finite) return;
  weight_range const range = p.ranges[blockIdx.x / adamw_parts];
  float const scale = p.step->scale, unbias = p.step->unbias;
  float const pace = p.step->pace * static_cast<float>(range.rate);
  float const keep = static_cast<float>(1 - p.step->decay * range.decay);
  for_range(range, blockIdx.x % adamw_parts, adamw_parts, [&](std::int64_t at, auto shape) {
    constexpr int N = decltype(shape)::value;
    float g[N], w[N], m[N], v[N];
    vector::load(p.g + at, g);
    vector::load(p.w + at, w);
    vector::load(p.m + at, m);
    vector::load(p.v + at, v);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float const x = scale * g[i];
      m[i] = p.beta1 * m[i] + p.rest1 * x;
      v[i] = p.beta2 * v[i] + p.rest2 * x * x;
      w[i] = keep * w[i] - pace * m[i] / (sqrtf(v[i]) * unbias + p.epsilon);
    }
    vector::save(p.w + at, w);
    vector::save(p.m + at, m);
    vector::save(p.v + at, v);
    vector::save(p.weights + at, w);
  });
}

/// A block a router.
template <class Tag>
__global__ void add_loads_kernel(router_place const* routers, double const* reports, bool add,
                                 std::int64_t* loads) {
  router_place const r = routers[blockIdx.x];
  for (int e = threadIdx.x; e < r.experts; e += blockDim.x)
    loads[r.load + e] = (add ? loads[r.load + e] : 0) + __double_as_longlong(reports[r.report + e]);
}

template <class T>
__global__ void __launch_bounds__(256)
    move_biases_kernel(router_place const* routers, std::int64_t const* loads, float speed,
                       bool centre, float* w, T* weights, adamw_step const* step) {
  __shared__ long long counts[32];
  __shared__ float memory[32];
  router_place const r = routers[blockIdx.x];
  if (!step->finite || r.bias < 0) return;
  int const experts = r.experts;
  std::int64_t const* const load = loads + r.load;
  float* const bias = w + r.bias;
  long long all = 0;
  for (int e = threadIdx.x; e < experts; e += blockDim.x) all += load[e];
  all = vector::block_sum(all, counts);
  float sum = 0;
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    long long const excess = all > 0 ? load[e] * experts - all : 0;
    bias[e] -= speed * static_cast<float>((excess > 0) - (excess < 0));
    sum += bias[e];
  }
  float const mean = vector::block_sum(sum, memory) / static_cast<float>(experts);
  for (int e = threadIdx.x; e < experts; e += blockDim.x) {
    if (centre) bias[e] -= mean;
    vector::put(weights + r.bias + e, bias[e]);
    vector::put(weights + r.rest + e, bias[e] - vector::to_float(weights[r.bias + e]));
  }
}

template <class T>
void adamw<T>::gradient_norm(adamw_numbers const& how, adamw_request const& asked,
                             weight_range const* ranges, std::int64_t count, T const* g,
                             double* partial, double const* loss, std::int64_t const* terms,
                             adamw_step* step, CUstream_st* stream) {
  if (count > 0) {
    sum_of_squares_kernel<T><<<static_cast<unsigned>(count), 256, 0, stream>>>(ranges, g, partial);
    check_launch("sum_of_squares_kernel");
  }
  gradient_norm_kernel<void><<<1, vector::threads_for(count, 1024), 0, stream>>>(
      how, asked, partial, count, loss, terms, step);
  check_launch("gradient_norm_kernel");
}

template <class T>
void adamw<T>::update(adamw_numbers const& how, weight_range const* ranges, std::int64_t count,
                      T const* g, float* w, float* m, float* v, T* weights, adamw_step const* step,
                      CUstream_st* stream) {
  if (count == 0) return;
  auto const number = [](double x) { return static_cast<float>(x); };
  adamw_kernel<T><<<static_cast<unsigned>(count * adamw_parts), 128, 0, stream>>>(
      {number(how.beta1), number(how.beta2), number(1 - how.beta1), number(1 - how.beta2),
       number(how.epsilon), ranges, g, w, m, v, weights, step});
  check_launch("adamw_kernel");
}

template <class T>
void adamw<T>::add_loads(router_place const* routers, std::int64_t count, double const* reports,
                         gradients mode, std::int64_t* loads, CUstream_st* stream) {
  if (count == 0) return;
  add_loads_kernel<void><<<static_cast<unsigned>(count), 128, 0, stream>>>(
      routers, reports, mode == gradients::accumulate, loads);
  check_launch("add_loads_kernel");
}
template <class T>
void adamw<T>::move_biases(router_place const* routers, std::int64_t count,
                           std::int64_t const* loads, double speed, bool centre, float* w,
                           T* weights, adamw_step const* step, CUstream_st* stream) {
  if (count == 0) return;
  move_biases_kernel<T><<<static_cast<unsigned>(count), 256, 0, stream>>>(
      routers, loads, static_cast<float>(speed), centre, w, weights, step);
  check_launch("move_biases_kernel");
}

template <class Tag>
__global__ void __launch_bounds__(128)
    write_by_chance_kernel(weight_range const* ranges, float const* w, bf16* weights,
                           adamw_step const* step) {
  std::uint64_t const seed = random_word(0, static_cast<std::uint64_t>(step->step));
  weight_range const range = ranges[blockIdx.x / adamw_parts];
  for_range(range, blockIdx.x % adamw_parts, adamw_parts, [&](std::int64_t at, auto shape) {
    constexpr int N = decltype(shape)::value;
    float x[N];
    vector::load(w + at, x);
    std::uint64_t word = 0;
#pragma unroll
    for (int i = 0; i < N; ++i, word >>= 16) {
      auto const n = static_cast<std::uint64_t>(at + i);
      if (i % 4 == 0) word = random_word(seed, n / 4) >> n % 4 * 16;
      x[i] = static_cast<float>(rounded_by(x[i], static_cast<std::uint32_t>(word & 0xffff)));
    }
    vector::save(weights + at, x);
  });
}
template <class Tag>
void chance_rounding<Tag>::write(weight_range const* ranges, std::int64_t count, float const* w,
                                 bf16* weights, adamw_step const* step, CUstream_st* stream) {
  if (count == 0) return;
  write_by_chance_kernel<Tag>
      <<<static_cast<unsigned>(count * adamw_parts), 128, 0, stream>>>(ranges, w, weights, step);
  check_launch("write_by_chance_kernel");
}

template <class T>
using adamw_code =
    code<&adamw<T>::gradient_norm, &adamw<T>::update, &adamw<T>::add_loads, &adamw<T>::move_biases>;
/// Of what T is: no other number is rounded by chance.
template <class T>
struct rounding_code {};
template <>
struct rounding_code<bf16> : code<&chance_rounding<void>::write> {};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
