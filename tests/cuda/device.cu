// The kernels of all tests of this folder. Tests call each path by itself, too.
// SPDX-License-Identifier: Apache-2.0
#define FINEGRAIN_CUDA_PORTABLE
#include <finegrain/cuda.cuh>

#include "differences.hpp"
#include "rules.hpp"

namespace fg = finegrain;

template struct fg::on_cuda<void>;
template struct fg::device::portable_products<fg::bf16>;
template struct fg::device::hopper_forward<fg::bf16>;
template struct fg::device::hopper_transposed<fg::bf16>;
template struct fg::device::hopper_backward<fg::bf16>;
template struct fg::device::decode_products<fg::bf16>;
template struct fg::device::few_rows<fg::bf16>;
template struct fg::device::dispatch<fg::bf16>;
template struct fg::on_cuda_frozen<fg::format::fp8>;
template struct fg::on_cuda_frozen<fg::format::int8>;
template struct fg::on_cuda_frozen<fg::format::int8_block>;
template struct fg::on_cuda_frozen<fg::format::int4>;

namespace under_test {
namespace {

__global__ void place_kernel(fg::matrix<std::int32_t> experts, int routed) {
  for (std::int64_t t = threadIdx.x; t < experts.rows; t += blockDim.x)
    for (int slot = 0; slot < experts.cols; ++slot) {
      auto const e = static_cast<std::int32_t>((t + 3 * slot) % routed);
      bool const wrong = t % 7 == 0 && slot > 0;  // the first again, or beyond the last
      experts(t, slot) = t % 5 == 0 && slot > 0 ? fg::no_expert
                         : !wrong               ? e
                         : t % 2 == 0           ? static_cast<std::int32_t>(t % routed)
                                                : routed;
    }
}
template <class T>
__global__ void adamw_again_kernel(fg::device::adamw_numbers how, fg::matrix<float> w,
                                   fg::matrix<T const> g, float* m, float* v,
                                   fg::device::adamw_step const* step, double rate, double decay) {
  if (!step->finite) return;
  auto const t = static_cast<double>(step->step);
  float const beta1 = static_cast<float>(how.beta1), rest1 = static_cast<float>(1 - how.beta1);
  float const beta2 = static_cast<float>(how.beta2), rest2 = static_cast<float>(1 - how.beta2);
  float const pace = static_cast<float>(step->rate / (1 - pow(how.beta1, t))) * float(rate);
  float const unbias = static_cast<float>(1 / sqrt(1 - pow(how.beta2, t)));
  float const keep = static_cast<float>(1 - step->decay * decay), epsilon = float(how.epsilon);
  for (std::int64_t i = threadIdx.x; i < w.size(); i += blockDim.x) {
    float const x = step->scale * fg::device::vector::to_float(g.data[i]);
    m[i] = beta1 * m[i] + rest1 * x;
    v[i] = beta2 * v[i] + rest2 * x * x;
    w.data[i] = keep * w.data[i] - pace * m[i] / (sqrtf(v[i]) * unbias + epsilon);
  }
}
__global__ void square_kernel(double const* f, double* factors, int count) {
  for (int e = threadIdx.x; e < count; e += blockDim.x) factors[e] = f[e] * f[e];
}

}  // namespace

void by_place::enqueue(fg::batch const&, fg::matrix<float const> scores,
                       fg::matrix<std::int32_t> experts, CUstream_st* stream) const {
  place_kernel<<<1, 256, 0, stream>>>(experts, static_cast<int>(scores.cols));
}
void squared::enqueue(std::span<double const> f, std::span<double> factors,
                      CUstream_st* stream) const {
  square_kernel<<<1, 256, 0, stream>>>(f.data(), factors.data(), static_cast<int>(f.size()));
}
template <class T>
void move_by_adamw(fg::device::adamw_numbers const& how, fg::matrix<float> w, fg::matrix<T const> g,
                   float* m, float* v, fg::device::adamw_step const* step, double rate,
                   double decay, CUstream_st* stream) {
  adamw_again_kernel<T><<<1, 256, 0, stream>>>(how, w, g, m, v, step, rate, decay);
}
template void move_by_adamw(fg::device::adamw_numbers const&, fg::matrix<float>,
                            fg::matrix<fg::bf16 const>, float*, float*,
                            fg::device::adamw_step const*, double, double, CUstream_st*);
template void move_by_adamw(fg::device::adamw_numbers const&, fg::matrix<float>,
                            fg::matrix<float const>, float*, float*, fg::device::adamw_step const*,
                            double, double, CUstream_st*);

}  // namespace under_test

namespace on_device {

__global__ void count_differences(uint4 const* a, uint4 const* b, std::int64_t size,
                                  unsigned long long* count) {
  unsigned long long found = 0;
  std::int64_t const step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step)
    found += a[i].x != b[i].x || a[i].y != b[i].y || a[i].z != b[i].z || a[i].w != b[i].w;
  if (found) atomicAdd(count, found);
}

differences::differences() : count_(1) { fg::device::runtime::fill(count_.data(), 0, 8, nullptr); }
void differences::add(device_buffer<fg::bf16> const& a, device_buffer<fg::bf16> const& b) {
  count_differences<<<264, 256>>>(reinterpret_cast<uint4 const*>(a.data()),
                                  reinterpret_cast<uint4 const*>(b.data()), a.bytes() / 16,
                                  count_.data());
  fg::device::check_launch("counting differences");
}
std::int64_t differences::count() const { return std::int64_t(download(count_, 1)[0]); }

}  // namespace on_device
