// The kernels of all tests of this folder. Tests call each path by itself, too.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda.cuh>

#include "rules.hpp"

namespace fg = finegrain;

template struct fg::on_cuda<void>;
template struct fg::device::portable_products<fg::bf16>;
template struct fg::device::hopper_forward<fg::bf16>;
template struct fg::device::hopper_backward<fg::bf16>;
template struct fg::device::decode_products<fg::bf16>;
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
      experts.data[t * experts.stride + slot] = t % 5 == 0 && slot > 0 ? fg::no_expert
                                                : !wrong               ? e
                                                : t % 2 == 0 ? static_cast<std::int32_t>(t % routed)
                                                             : routed;
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

}  // namespace under_test
