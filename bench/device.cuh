// device.hpp's code: CUDA graphs and events, cuBLAS, and kernels that a peer needs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <finegrain/cuda/linear.cuh>
#include <fstream>
#include <stdexcept>

#include "device.hpp"

namespace bench::gpu {

using fg::device::check;
using fg::device::check_launch;

facts describe() {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, 0), "asking what GPU this is");
  int runtime = 0;
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
  facts made{p.name, "", std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10),
             10 * p.major + p.minor};
  std::ifstream file("/proc/driver/nvidia/version");  // the version is the word of digits and dots
  for (std::string word; made.driver.empty() && file >> word;)
    if (word.find('.') != std::string::npos &&
        word.find_first_not_of("0123456789.") == std::string::npos)
      made.driver = word;
  return made;
}
std::int64_t free_memory() {
  std::size_t free = 0, all = 0;
  check(cudaMemGetInfo(&free, &all), "asking for free memory");
  return static_cast<std::int64_t>(free);
}

stream::stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}
stream::~stream() { static_cast<void>(cudaStreamDestroy(stream_)); }

graph::graph(CUstream_st* on, std::function<void()> const& enqueue) : on_(on) {
  cudaGraph_t recorded = nullptr;
  check(cudaStreamBeginCapture(on, cudaStreamCaptureModeThreadLocal), "recording a graph");
  try {
    enqueue();
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(on, &recorded));
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(cudaStreamEndCapture(on, &recorded), "recording a graph");
  cudaError_t const made = cudaGraphInstantiate(&graph_, recorded, 0);
  static_cast<void>(cudaGraphDestroy(recorded));
  check(made, "making a graph");
}
graph::~graph() {
  if (graph_) static_cast<void>(cudaGraphExecDestroy(graph_));
}
void graph::replay() const { check(cudaGraphLaunch(graph_, on_), "replaying a graph"); }

std::vector<double> time_each(CUstream_st* on, int times, std::function<void()> const& enqueue) {
  std::vector<cudaEvent_t> events(static_cast<std::size_t>(2 * times));
  for (auto& e : events) check(cudaEventCreate(&e), "making an event");
  for (std::size_t i = 0; i < events.size(); i += 2) {
    check(cudaEventRecord(events[i], on), "recording an event");
    enqueue();
    check(cudaEventRecord(events[i + 1], on), "recording an event");
  }
  check(cudaStreamSynchronize(on), "waiting for what is timed");
  std::vector<double> seconds;
  for (std::size_t i = 0; i < events.size(); i += 2) {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events[i], events[i + 1]), "reading an event");
    seconds.push_back(1e-3 * milliseconds);
  }
  for (auto& e : events) static_cast<void>(cudaEventDestroy(e));
  return seconds;
}

// ---- kernels ------------------------------------------------------------------------------------

namespace kernels {

/// Eight numbers, loaded and stored as one.
union eight {
  uint4 word;
  __nv_bfloat162 pair[4];
};

inline __device__ std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Box and Muller: two normal numbers from one random word.
__global__ void fill_normal(__nv_bfloat16* to, std::int64_t count, float deviation,
                            std::uint64_t seed) {
  std::int64_t const step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; 2 * i < count;
       i += step) {
    std::uint64_t const word =
        mixed(seed * 0xd1342543de82ef95u + static_cast<std::uint64_t>(i + 1) * 0x9e3779b97f4a7c15u);
    float const u = (static_cast<float>(word >> 40) + 0.5f) * 0x1p-24f;
    float const angle = static_cast<float>(word & 0xffffff) * 0x1p-24f * 6.2831853f;
    float const radius = deviation * sqrtf(-2.0f * __logf(u));
    to[2 * i] = __float2bfloat16(radius * __cosf(angle));
    if (2 * i + 1 < count) to[2 * i + 1] = __float2bfloat16(radius * __sinf(angle));
  }
}

__global__ void fill_identity(__nv_bfloat16* to, int cols) {
  for (int c = static_cast<int>(threadIdx.x); c < cols; c += static_cast<int>(blockDim.x))
    to[std::int64_t{blockIdx.x} * cols + c] =
        __float2bfloat16(c == static_cast<int>(blockIdx.x) ? 1.0f : 0.0f);
}

__global__ void gather(uint4 const* x, std::int32_t const* token, float const* weight, int words,
                       uint4* to) {
  uint4 const* const from = x + std::int64_t{token[blockIdx.x]} * words;
  __nv_bfloat162 const w = __float2bfloat162_rn(weight ? weight[blockIdx.x] : 1.0f);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    eight numbers{from[i]};
    if (weight)
      for (auto& pair : numbers.pair) pair = __hmul2(pair, w);
    to[std::int64_t{blockIdx.x} * words + i] = numbers.word;
  }
}

__global__ void activate(uint4 const* z, int words, uint4* hidden) {
  std::int64_t const row = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    eight gate{z[row * 2 * words + i]};
    eight const up{z[row * 2 * words + words + i]};
    for (int j = 0; j < 4; ++j) {
      float2 const g = __bfloat1622float2(gate.pair[j]), u = __bfloat1622float2(up.pair[j]);
      gate.pair[j] = __floats2bfloat162_rn(g.x / (1.0f + __expf(-g.x)) * u.x,
                                           g.y / (1.0f + __expf(-g.y)) * u.y);
    }
    hidden[row * words + i] = gate.word;
  }
}

__global__ void activate_backward(uint4 const* z, uint4 const* dhidden, int words, uint4* dz) {
  std::int64_t const row = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    std::int64_t const at = row * 2 * words + i;
    eight gate{z[at]}, up{z[at + words]};
    eight const gradient{dhidden[row * words + i]};
    for (int j = 0; j < 4; ++j) {
      float2 const g = __bfloat1622float2(gate.pair[j]), u = __bfloat1622float2(up.pair[j]),
                   d = __bfloat1622float2(gradient.pair[j]);
      float const sx = 1.0f / (1.0f + __expf(-g.x)), sy = 1.0f / (1.0f + __expf(-g.y));
      gate.pair[j] = __floats2bfloat162_rn(d.x * u.x * sx * (1.0f + g.x * (1.0f - sx)),
                                           d.y * u.y * sy * (1.0f + g.y * (1.0f - sy)));
      up.pair[j] = __floats2bfloat162_rn(d.x * g.x * sx, d.y * g.y * sy);
    }
    dz[at] = gate.word;
    dz[at + words] = up.word;
  }
}

__global__ void combine(uint4 const* rows, std::int32_t const* place, float const* weight,
                        uint4 const* shared, int slots, int words, uint4* y) {
  std::int64_t const t = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    float2 sum[4] = {};
    auto const add = [&](uint4 word, float w) {
      eight const numbers{word};
      for (int j = 0; j < 4; ++j) {
        float2 const n = __bfloat1622float2(numbers.pair[j]);
        sum[j].x += w * n.x;
        sum[j].y += w * n.y;
      }
    };
    if (shared) add(shared[t * words + i], 1.0f);
    for (int s = 0; s < slots; ++s)
      add(rows[std::int64_t{place[t * slots + s]} * words + i],
          weight ? weight[t * slots + s] : 1.0f);
    eight made;
    for (int j = 0; j < 4; ++j) made.pair[j] = __floats2bfloat162_rn(sum[j].x, sum[j].y);
    y[t * words + i] = made.word;
  }
}

}  // namespace kernels

inline uint4 const* words(number const* p) { return reinterpret_cast<uint4 const*>(p); }
inline uint4* words(number* p) { return reinterpret_cast<uint4*>(p); }
inline unsigned blocks(std::int64_t n) { return static_cast<unsigned>(n); }

void fill_normal(number* to, std::int64_t count, float deviation, std::uint64_t seed,
                 CUstream_st* on) {
  if (count == 0) return;
  kernels::fill_normal<<<blocks(std::min<std::int64_t>(count / 512 + 1, 4096)), 256, 0, on>>>(
      reinterpret_cast<__nv_bfloat16*>(to), count, deviation, seed);
  check_launch("fill_normal");
}
void fill_identity(number* to, int rows, int cols, CUstream_st* on) {
  kernels::fill_identity<<<blocks(rows), 256, 0, on>>>(reinterpret_cast<__nv_bfloat16*>(to), cols);
  check_launch("fill_identity");
}
void put(number* to, std::int64_t stride, number const* from, std::int64_t rows, std::int64_t cols,
         CUstream_st* on) {
  auto const bytes = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(number); };
  check(cudaMemcpy2DAsync(to, bytes(stride), from, bytes(cols), bytes(cols),
                          static_cast<std::size_t>(rows), cudaMemcpyHostToDevice, on),
        "copying rows");
  check(cudaStreamSynchronize(on), "copying rows");
}
void gather(number const* x, std::int32_t const* token, float const* weight, std::int64_t rows,
            int width, number* to, CUstream_st* on) {
  if (rows == 0) return;
  kernels::gather<<<blocks(rows), 128, 0, on>>>(words(x), token, weight, width / 8, words(to));
  check_launch("gather");
}
void activate(number const* z, std::int64_t rows, int width, number* hidden, CUstream_st* on) {
  if (rows == 0) return;
  kernels::activate<<<blocks(rows), 128, 0, on>>>(words(z), width / 8, words(hidden));
  check_launch("activate");
}
void activate_backward(number const* z, number const* dhidden, std::int64_t rows, int width,
                       number* dz, CUstream_st* on) {
  if (rows == 0) return;
  kernels::activate_backward<<<blocks(rows), 128, 0, on>>>(words(z), words(dhidden), width / 8,
                                                           words(dz));
  check_launch("activate_backward");
}
void combine(number const* rows, std::int32_t const* place, float const* weight,
             number const* shared, std::int64_t tokens, int slots, int width, number* y,
             CUstream_st* on) {
  if (tokens == 0) return;
  kernels::combine<<<blocks(tokens), 256, 0, on>>>(
      words(rows), place, weight, shared ? words(shared) : nullptr, slots, width / 8, words(y));
  check_launch("combine");
}

// ---- cuBLAS -------------------------------------------------------------------------------------

#if !defined(__CUDA_ARCH__)  // as linear.cuh, which includes it

struct products::state {
  struct lane {
    stream on;
    cublasHandle_t handle = nullptr;
    cudaEvent_t done = nullptr;
    fg::device_buffer<> workspace{std::int64_t{32} << 20};
  };
  std::vector<lane> lanes;
  cudaEvent_t begin = nullptr;

  explicit state(int n) : lanes(static_cast<std::size_t>(n)) {
    check(cudaEventCreateWithFlags(&begin, cudaEventDisableTiming), "making an event");
    for (lane& l : lanes) {
      check(cudaEventCreateWithFlags(&l.done, cudaEventDisableTiming), "making an event");
      check(cublasCreate(&l.handle), "cublasCreate");
      check(cublasSetStream(l.handle, l.on.get()), "cublasSetStream");  // forgets the workspace
      check(cublasSetWorkspace(l.handle, l.workspace.data(),
                               static_cast<std::size_t>(l.workspace.bytes())),
            "cublasSetWorkspace");
    }
  }
  ~state() {
    for (lane& l : lanes) {
      if (l.handle) cublasDestroy(l.handle);
      if (l.done) static_cast<void>(cudaEventDestroy(l.done));
    }
    if (begin) static_cast<void>(cudaEventDestroy(begin));
  }
};

products::products(int lanes) : state_(std::make_unique<state>(lanes)) {}
products::~products() = default;
int products::lanes() const { return static_cast<int>(state_->lanes.size()); }
CUstream_st* products::lane(int i) const {
  return state_->lanes[static_cast<std::size_t>(i)].on.get();
}

void products::run(int lane, form f, std::int64_t m, std::int64_t n, std::int64_t k,
                   rows<number const> a, rows<number const> b, rows<number> c, bool add) {
  // A row-major matrix is its transpose to cuBLAS: it computes C^T = B^T A^T.
  bool const a_turned = f == form::tn, b_turned = f == form::nt;
  auto const stride = [](auto const& x, std::int64_t dense) {
    return static_cast<int>(x.stride > 0 ? x.stride : dense);
  };
  float const one = 1, kept = add ? 1 : 0;
  check(cublasGemmEx(state_->lanes[static_cast<std::size_t>(lane)].handle,
                     b_turned ? CUBLAS_OP_T : CUBLAS_OP_N, a_turned ? CUBLAS_OP_T : CUBLAS_OP_N,
                     static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one, b.at,
                     CUDA_R_16BF, stride(b, b_turned ? k : n), a.at, CUDA_R_16BF,
                     stride(a, a_turned ? m : k), &kept, c.at, CUDA_R_16BF, stride(c, n),
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}
void products::fork(CUstream_st* from) {
  check(cudaEventRecord(state_->begin, from), "recording an event");
  for (auto const& l : state_->lanes)
    check(cudaStreamWaitEvent(l.on.get(), state_->begin, 0), "waiting for an event");
}
void products::join(CUstream_st* to) {
  for (auto const& l : state_->lanes) {
    check(cudaEventRecord(l.done, l.on.get()), "recording an event");
    check(cudaStreamWaitEvent(to, l.done, 0), "waiting for an event");
  }
}

#endif

limits_meter::limits_meter(products& p)
    : products_(p), a_(side * side), b_(side * side), c_(side * side), from_(copied), to_(copied) {
  CUstream_st* const on = p.lane(0);
  fill_normal(a_.data(), a_.size(), 1, 1, on);
  fill_normal(b_.data(), b_.size(), 1, 2, on);
  fill_normal(reinterpret_cast<number*>(from_.data()), copied / 2, 1, 3, on);
}
limits_meter::rates limits_meter::measure(int times) {
  CUstream_st* const on = products_.lane(0);
  auto const median_of = [&](std::function<void()> const& enqueue) {
    enqueue();
    std::vector<double> seconds = time_each(on, times, enqueue);
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  };
  double const product = median_of([&] {
    products_.run(0, products::form::nt, side, side, side, a_.data(), b_.data(), c_.data());
  });
  double const copy = median_of([&] {
    check(cudaMemcpyAsync(to_.data(), from_.data(), copied, cudaMemcpyDeviceToDevice, on),
          "copying");
  });
  return {2.0 * side * side * side / product, 2.0 * copied / copy};
}

}  // namespace bench::gpu
