// Tests of the emulator: it finds faults that were planted, and none where there is none.
// SPDX-License-Identifier: Apache-2.0
#include "planted.hpp"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <numeric>
#include <vector>

#include "../catch.hpp"
#include "checks.hpp"

namespace {

using planted::what;

struct numbers {
  explicit numbers(bool write = false) {
    cudaMalloc(reinterpret_cast<void**>(&data), 64 * sizeof(float));
    std::vector<float> first(64);
    std::iota(first.begin(), first.end(), 0.0f);
    if (write) cudaMemcpyAsync(data, first.data(), 64 * sizeof(float), cudaMemcpyDefault, nullptr);
  }
  ~numbers() { cudaFree(data); }
  std::vector<float> read() const {
    std::vector<float> all(64);
    cudaMemcpyAsync(all.data(), data, 64 * sizeof(float), cudaMemcpyDefault, nullptr);
    return all;
  }
  float* data = nullptr;
};

// The sentence of a kernel's only fault.
std::string fault_of(what which, bool written = true) {
  numbers const to, from(written);
  run(which, to.data, from.data);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  auto const found = emulator::take_faults();
  REQUIRE(found.size() == 1);
  return found[0];
}

}  // namespace

TEST_CASE("a kernel without a fault has none, and is right") {
  for (what const which :
       {what::nothing, what::copies, what::last_block, what::blocks_write_the_same}) {
    numbers const to, from(true);
    run(which, to.data, from.data);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(emulator::take_faults().empty());
    CHECK(to.read() == from.read());
  }
}

TEST_CASE("faults are found, and said to be where they are") {
  struct expected {
    what which;
    char const* words;
  };
  for (auto const& [which, words] : {
           expected{what::read_too_early, "reads shared memory that nobody wrote"},
           {what::written_again, "reads shared memory that warp 0 wrote, without a barrier"},
           {what::read_then_written, "writes shared memory that warp 0 read, without a barrier"},
           {what::write_beyond, "writes outside of memory, at byte 256 of an array of 256"},
           {what::not_aligned, "writes 8 bytes that are not aligned"},
           {what::shared_beyond, "writes byte 252 of 252 in shared memory"},
           {what::shared_unwritten, "reads shared memory that nobody wrote"},
           {what::copy_not_awaited, "reads shared memory that nobody wrote"},
           {what::alone_at_barrier, "waits at a barrier that others do not come to"},
           {what::last_block_without_fences,
            "reads global memory that block 0 wrote, without fences"},
           {what::blocks_write_one_place,
            "writes global memory that block 0 wrote, without fences"},
           {what::block_writes_what_another_read,
            "writes global memory that block 0 read, without fences"},
           {what::warp_reads_too_early,
            "reads global memory that warp 0 wrote, without a barrier between them"},
           {what::absent_lane, "takes a number of lane 20, which is not there"},
       }) {
    auto const found = fault_of(which);
    CHECK_THAT(found, ContainsSubstring(words));
    CHECK_THAT(found, ContainsSubstring("planted.cu:"));
  }
  CHECK_THAT(fault_of(what::nothing, false), ContainsSubstring("reads what nobody wrote"));
  CHECK_THAT(fault_of(what::unknown), ContainsSubstring("does not know `dp4a"));
}

TEST_CASE("faults of copies by the engine of 9.0 are found", "[.hopper]") {
  numbers const to, from(true);
  run(what::bulk_copies, to.data, from.data);
  CHECK(emulator::take_faults().empty());
  CHECK(to.read() == from.read());
  CHECK_THAT(fault_of(what::bulk_not_awaited),
             ContainsSubstring("reads shared memory that nobody wrote"));
  CHECK_THAT(fault_of(what::bulk_over_readers),
             ContainsSubstring("writes shared memory that warp 0 read, without a barrier"));
}

TEST_CASE("a launch that does not wait for the one ahead is found", "[.hopper]") {
  numbers const to, from(true);
  run(what::waits_for_launch, to.data, from.data);
  CHECK(emulator::take_faults().empty());
  CHECK(to.read() == from.read());
  CHECK_THAT(fault_of(what::reads_before_launch_ahead_ended),
             ContainsSubstring("reads global memory that the launch ahead wrote, without waiting"));
}

TEST_CASE("faults outside of kernels are found") {
  numbers const some, others(true);
  CHECK(cudaMemsetAsync(some.data, 0, 257, nullptr) != cudaSuccess);
  CHECK(cudaMemcpyAsync(some.data, others.data, 257, cudaMemcpyDefault, nullptr) != cudaSuccess);
  cublasHandle_t blas = nullptr;
  cublasCreate(&blas);
  float const one = 1, zero = 0;
  auto const product = [&](float const* a) {  // of 8 x 8 numbers
    return cublasGemmEx_64(blas, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, a, CUDA_R_32F, 8,
                           others.data, CUDA_R_32F, 8, &zero, some.data, CUDA_R_32F, 8,
                           CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  };
  CHECK(product(some.data) != CUBLAS_STATUS_SUCCESS);
  CHECK(product(others.data + 1) != CUBLAS_STATUS_SUCCESS);
  CHECK(emulator::take_faults().size() == 4);
  CHECK(product(others.data) == CUBLAS_STATUS_SUCCESS);
  CHECK(some.read()[0] == 8 * 140);  // of 8 k and k, for k below 8
  cublasDestroy(blas);
}

TEST_CASE("a program that has faults does not end well", "[.exit]") {
  numbers const to, from;
  run(what::nothing, to.data, from.data);
}
